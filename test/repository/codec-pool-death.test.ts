// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { Worker } from 'node:worker_threads';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { type ContentKey, keyFromHex } from '../../appliance/core/content-id.ts';
import { MapReader } from '../../appliance/volume/map-reader.ts';
import { POISON } from '../support/codec-death.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('codec threads that die');
const CHUNK = 64 * 1024;
const CHUNKS = 256;
/** Reads of each chunk, so that both threads are busy for a while. */
const ROUNDS = 8;
const MARK = 0xee;

/** The threads that get messages while the test runs. */
function workersGivenWork(t: TestContext): Set<Worker> {
  const workers = new Set<Worker>();
  const { prototype } = Worker;
  const send = Object.getOwnPropertyDescriptor(prototype, 'postMessage');
  assert.ok(send !== undefined);
  const { value } = send as { value: (this: Worker, ...args: unknown[]) => void };
  Object.defineProperty(prototype, 'postMessage', {
    ...send,
    value(this: Worker, ...args: unknown[]): void {
      workers.add(this);
      value.apply(this, args);
    },
  });
  t.use({ close: () => Object.defineProperty(prototype, 'postMessage', send) });
  return workers;
}

test('nothing is written to a place whose read has failed, by the threads that live either', async (t) => {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const disk = memoryDevice({ sizeBytes: CHUNKS * CHUNK });
  for (let n = 0; n < CHUNKS; n++) await disk.write(n * CHUNK, Buffer.alloc(CHUNK, `chunk ${n} `));
  const point = await fixture.addPoint({ disks: { vda: disk } });
  const { reader } = fixture.repository;
  const map = new MapReader(keyFromHex(point.disks[0]?.root ?? ''), reader);
  const keys = await Promise.all(Array.from({ length: CHUNKS }, (_, n) => map.chunkKey(n)));

  const workers = workersGivenWork(t);
  const wanted = Array.from({ length: ROUNDS }, () => keys).flat();
  const places = wanted.map(() => Buffer.from(new SharedArrayBuffer(CHUNK)));
  let failed = 0;
  const read = async (key: ContentKey, n: number): Promise<void> => {
    const place = places[n];
    assert.ok(place !== undefined);
    try {
      await reader.readChunk(key, 0, place);
    } catch {
      // The caller uses the place for something else at once.
      place.fill(MARK);
      failed += 1;
    }
  };
  const half = wanted.length / 2;
  const first = wanted.slice(0, half).map((key, n) => read(key, n));
  await Promise.resolve();
  assert.equal(workers.size, 2);
  const exits = [...workers].map((worker) => new Promise<void>((resolve) => worker.on('exit', () => resolve())));
  const [victim] = workers;
  victim?.postMessage(POISON);
  const second = wanted.slice(half).map((key, n) => read(key, half + n));
  await Promise.all([...first, ...second]);
  await Promise.all(exits);
  assert.ok(failed > 0, 'reads were under way');
  const spoiled = places.filter((place) => place.includes(MARK) && !place.every((byte) => byte === MARK));
  assert.equal(spoiled.length, 0);
  const whole = places.filter((place) => place.every((byte) => byte === MARK)).length;
  assert.equal(whole, failed, 'no place of a failed read was written afterwards');
  await rejectsWith(
    reader.readChunk(keys[0] ?? keyFromHex('00'), 0, Buffer.from(new SharedArrayBuffer(CHUNK))),
    'INTERNAL',
  );
});
