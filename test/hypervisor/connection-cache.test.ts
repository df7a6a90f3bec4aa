// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { ConnectionCache } from '../../appliance/hypervisor/libvirt/connection-cache.ts';
import { StuckOpens } from '../../appliance/hypervisor/libvirt/stuck-opens.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('libvirt that hangs');

test('all who wait for one attempt to connect get its failure, and the next makes another attempt', async (t) => {
  const attempts: PromiseWithResolvers<LibvirtConnection>[] = [];
  const cache = new ConnectionCache(() => {
    const attempt = Promise.withResolvers<LibvirtConnection>();
    attempts.push(attempt);
    return attempt.promise;
  });
  t.use(cache);
  const waiting = Array.from({ length: 20 }, () => cache.get('test:///default'));
  const refused = Promise.all(waiting.map((one) => rejectsWith(one, 'TIMED_OUT')));
  attempts[0]?.reject(new ApplianceError('TIMED_OUT', 'nothing came'));
  await refused;
  assert.equal(attempts.length, 1);
  const next = cache.get('test:///default');
  attempts[1]?.reject(new ApplianceError('LIBVIRT_CONNECT_FAILED', 'refused'));
  await rejectsWith(next, 'LIBVIRT_CONNECT_FAILED');
});

test('after attempts that do not come back the pause before the next becomes longer, to an hour', async () => {
  let nowMs = 0;
  const opens = new StuckOpens({ nowMs: () => nowMs, elapsedMs: () => nowMs });
  const threads: PromiseWithResolvers<void>[] = [];
  let attempts = 0;
  for (; nowMs < 24 * 3_600_000; nowMs += 10_000) {
    try {
      opens.check(`qemu+tls://host/system?authfile=/run/${nowMs}`);
    } catch (error) {
      assert.ok(error instanceof ApplianceError && error.code === 'TIMED_OUT');
      continue;
    }
    attempts += 1;
    const thread = Promise.withResolvers<void>();
    threads.push(thread);
    opens.add(`qemu+tls://host/system?authfile=/run/${nowMs}`, thread.promise);
  }
  assert.equal(attempts, 30);
  opens.check('qemu+tls://another/system');
  assert.throws(() => opens.check('qemu+tls://host/system?'), { code: 'TIMED_OUT' });
  threads[0]?.resolve();
  await threads[0]?.promise;
  opens.check('qemu+tls://host/system?authfile=x');
});

test(
  'a daemon that accepts and says nothing costs one thread, and is asked again when it is gone',
  async (t) => {
    const path = join(await t.tempDir(), 'libvirt.sock');
    const sockets: Socket[] = [];
    const server = createServer((socket) => sockets.push(socket)).listen(path);
    t.use({ close: () => server.close() });
    const uri = `qemu+unix:///system?socket=${path}`;
    await rejectsWith(LibvirtConnection.open(uri, { timeoutMs: 1_000 }), 'TIMED_OUT');
    await rejectsWith(LibvirtConnection.open(uri, { timeoutMs: 60_000 }), 'TIMED_OUT');
    assert.equal(sockets.length, 1);
    sockets[0]?.destroy();
    server.close();
    for (;;) {
      try {
        await LibvirtConnection.open(uri, { timeoutMs: 20_000 });
      } catch (error) {
        if (error instanceof ApplianceError && error.code === 'LIBVIRT_CONNECT_FAILED') return;
        assert.ok(error instanceof ApplianceError && error.code === 'TIMED_OUT', String(error));
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  },
  { requires: ['libvirtd'] },
);
