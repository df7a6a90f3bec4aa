// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { raiseFileLimit, sendToUnixSocket } from '../../appliance/core/libc.ts';
import { supervisorOf } from '../../appliance/core/supervisor.ts';
import { LiveProcess } from '../support/live-process.ts';
import { suite } from '../support/suite.ts';

const test = suite('supervisor');

test(
  'a supervisor hears what it is told, in its own words',
  async (t) => {
    const directory = await t.tempDir();
    const path = join(directory, 'notify');
    const heard = join(directory, 'heard');
    t.use(new LiveProcess(['socat', '-u', `UNIX-RECV:${path}`, `OPEN:${heard},creat,append`], process.env));
    while (!existsSync(path)) await delay(5);
    const supervisor = supervisorOf({ NOTIFY_SOCKET: path }, 1);
    assert.ok(supervisor !== undefined);
    assert.equal(supervisor.watchdogMs, undefined);
    assert.equal(supervisor.tell('ready', 'serving\n/var/lib'), true);
    assert.equal(supervisor.tell('alive'), true);
    const wanted = 'READY=1\nSTATUS=serving /var/libWATCHDOG=1';
    while ((existsSync(heard) ? (await readFile(heard, 'utf8')).length : 0) < wanted.length) await delay(5);
    assert.equal(await readFile(heard, 'utf8'), wanted);
  },
  { requires: ['socat'] },
);

test('where nobody listens, or no path is one, nothing happens', async (t) => {
  const path = join(await t.tempDir(), 'nobody');
  assert.equal(sendToUnixSocket(path, 'READY=1'), false);
  assert.equal(sendToUnixSocket('@understudy-test-nobody', 'READY=1'), false);
  assert.equal(sendToUnixSocket(`/${'x'.repeat(200)}`, 'READY=1'), false);
  assert.equal(supervisorOf({}, 1), undefined);
  assert.equal(supervisorOf({ NOTIFY_SOCKET: 'vsock:2:1' }, 1), undefined);
});

test('the watchdog counts only for the process that it is meant for', () => {
  const watchdog = (env: Record<string, string>): number | undefined =>
    supervisorOf({ NOTIFY_SOCKET: '/run/x', ...env }, 42)?.watchdogMs;
  assert.equal(watchdog({ WATCHDOG_USEC: '180000000' }), 180_000);
  assert.equal(watchdog({ WATCHDOG_USEC: '180000000', WATCHDOG_PID: '42' }), 180_000);
  assert.equal(watchdog({ WATCHDOG_USEC: '180000000', WATCHDOG_PID: '43' }), undefined);
  assert.equal(watchdog({ WATCHDOG_USEC: 'soon' }), undefined);
});

test('as many files may be open as the system allows', async () => {
  const limit = raiseFileLimit();
  assert.ok(limit >= 1024);
  const limits = await readFile('/proc/self/limits', 'utf8');
  const [, soft, hard] = /^Max open files\s+(\d+)\s+(\d+)/m.exec(limits) ?? [];
  assert.deepEqual([Number(soft), soft], [limit, hard]);
});
