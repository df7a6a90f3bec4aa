// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import type { AuditEntry } from '../../appliance/audit/entry.ts';
import { AuditForwarder, deliveryTo, MAX_WAITING, syslogMessage } from '../../appliance/audit/forward.ts';
import { SETTINGS } from '../../appliance/config/settings.ts';
import { LiveProcess } from '../support/live-process.ts';
import { suite } from '../support/suite.ts';

const test = suite('audit forward');

test('a message is one of RFC 5424, and bounded', () => {
  const message = syslogMessage(entry(1));
  assert.match(message, /^<109>1 2026-11-22T00:00:00\.000Z \S+ understudy \d+ audit - \{.*\}$/);
  assert.match(syslogMessage({ ...entry(1), outcome: 'denied' }), /^<108>1 /);
  assert.ok(syslogMessage({ ...entry(1), params: { text: 'x'.repeat(20_000) } }).length < 2000);
});

test('every destination that the setting takes has a way, and no other does', () => {
  const { pattern } = SETTINGS['audit.syslog'];
  for (const good of ['off', 'journald', 'unix:/dev/log', 'udp://loghost:514', 'tcp://[::1]:601']) {
    assert.match(good, pattern);
    assert.equal(deliveryTo(good) === undefined, good === 'off');
  }
  for (const bad of ['on', 'udp://loghost', 'file:///etc/passwd', 'unix:relative']) {
    assert.doesNotMatch(bad, pattern);
    assert.throws(() => deliveryTo(bad));
  }
});

test('entries arrive over UDP', async (t) => {
  const receiver = createSocket('udp4');
  t.use({ close: () => void receiver.close() });
  receiver.bind(0, '127.0.0.1');
  await once(receiver, 'listening');
  await using forwarder = new AuditForwarder(deliveryTo(`udp://127.0.0.1:${receiver.address().port}`), assert.fail);
  const arrived = once(receiver, 'message');
  forwarder.send(entry(1));
  const [message] = (await arrived) as [Buffer];
  assert.equal(message.toString(), syslogMessage(entry(1)));
});

test('entries arrive over TCP with their length', async (t) => {
  const server = createServer();
  t.use({ close: () => void server.close() });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const received = once(server, 'connection').then(([socket]) => text(socket));
  await using forwarder = new AuditForwarder(deliveryTo(`tcp://127.0.0.1:${port}`), assert.fail);
  forwarder.send(entry(1));
  const message = syslogMessage(entry(1));
  assert.equal(await received, `${Buffer.byteLength(message)} ${message}`);
});

test(
  'entries arrive at a unix socket, through the program logger',
  async (t) => {
    const path = join(await t.tempDir(), 'log');
    const receiver = t.use(new LiveProcess(['socat', '-u', `UNIX-RECV:${path}`, 'STDOUT']));
    while (!existsSync(path)) await delay(5);
    await using forwarder = new AuditForwarder(deliveryTo(`unix:${path}`), assert.fail);
    forwarder.send(entry(1));
    await forwarder.drained();
    await receiver.until(({ stdout }) => stdout.includes('"sequence":1'));
    receiver.kill();
    const { stdout } = await receiver.result;
    assert.match(stdout, /^<85>1 \S+ \S+ understudy .*\{"action":"login"/);
  },
  { requires: ['socat', 'logger'] },
);

test('a dead destination holds nobody up, is reported once, and so is its return', async () => {
  const said: string[] = [];
  let isDead = true;
  const delivered: number[] = [];
  await using forwarder = new AuditForwarder(
    async ({ sequence }) => {
      if (isDead) throw new Error('unreachable');
      delivered.push(sequence);
    },
    (sentence) => said.push(sentence),
  );
  for (let sequence = 1; sequence <= MAX_WAITING + 20; sequence++) forwarder.send(entry(sequence));
  await forwarder.drained();
  assert.equal(said.length, 1);
  assert.equal(forwarder.failed, MAX_WAITING + 20);
  isDead = false;
  forwarder.send(entry(7));
  await forwarder.drained();
  assert.deepEqual([delivered, said.length], [[7], 2]);
});

test('a destination that never answers is given up at the end', async () => {
  const forwarder = new AuditForwarder(
    (_entry, signal) =>
      new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error))),
    assert.fail,
  );
  forwarder.send(entry(1));
  forwarder.send(entry(2));
  await forwarder[Symbol.asyncDispose]();
});

function entry(sequence: number): AuditEntry {
  return {
    phase: 'event',
    action: 'login',
    who: { kind: 'user', id: 'ada', name: 'Ada', role: 'admin' },
    from: '192.0.2.1',
    requestId: null,
    target: null,
    params: {},
    outcome: 'ok',
    code: null,
    approval: null,
    sequence,
    at: '2026-11-22T00:00:00.000Z',
  };
}
