// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { Throttle, throttled } from '../../appliance/block/throttled-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { suite } from '../support/suite.ts';

const test = suite('throttled device');
const KIB = 1024;

test('reads give what the device has, and take their time together', async () => {
  const device = memoryDevice({ sizeBytes: 64 * KIB });
  await device.write(0, Buffer.alloc(64 * KIB, 7));
  const slow = throttled(device, new Throttle(256 * KIB, systemClock, new AbortController().signal));
  const startedMs = systemClock.elapsedMs();
  const parts = Array.from({ length: 4 }, () => Buffer.alloc(16 * KIB));
  await Promise.all(parts.map((part, n) => slow.read(n * 16 * KIB, part)));
  assert.ok(parts.every((part) => part.equals(Buffer.alloc(16 * KIB, 7))));
  assert.ok(systemClock.elapsedMs() - startedMs >= 180, 'the last of four begins after three sixteenths of a second');
  assert.equal(slow.features.isReadOnly, true);
  await slow.close();
});

test('whoever waits for its bandwidth is let go when the run is aborted', async () => {
  const abort = new AbortController();
  const slow = throttled(memoryDevice({ sizeBytes: 64 * KIB }), new Throttle(1, systemClock, abort.signal));
  await slow.read(0, Buffer.alloc(KIB));
  const waiting = slow.read(KIB, Buffer.alloc(KIB));
  abort.abort();
  await assert.rejects(waiting, { code: 'ABORTED' });
  await slow.close();
});

test('a throttle lets bytes pass at its rate, however they come, and saves nothing up', async () => {
  let nowMs = 0;
  const clock = { nowMs: () => nowMs, elapsedMs: () => nowMs };
  const throttle = new Throttle(1_000_000, clock, AbortSignal.abort());
  await throttle.pass(5_000);
  await assert.rejects(throttle.pass(1), { code: 'ABORTED' }, 'five milliseconds are to be waited for');
  nowMs = 10_000;
  await throttle.pass(1);
  await assert.rejects(throttle.pass(1), { code: 'ABORTED' });
});
