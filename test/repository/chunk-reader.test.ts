// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { open, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { type ContentKey, keyFromHex } from '../../appliance/core/content-id.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { invariant } from '../../appliance/core/invariant.ts';
import type { ChunkLocation } from '../../appliance/repository/chunk-index.ts';
import { packKey } from '../../appliance/repository/pack-writer.ts';
import { MapReader } from '../../appliance/volume/map-reader.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { Dice, ModelDisk, writePoint } from '../support/point-model.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const CHUNK = 65_536;
const CHUNKS = 24;

interface Scene {
  readonly fixture: FixtureRepository;
  readonly disk: ModelDisk;
  readonly keys: readonly ContentKey[];
  readonly places: readonly ChunkLocation[];
  readonly packPath: string;
}

/** Chunks whose frames lie in one pack, one behind the other. */
async function makeScene(t: TestContext): Promise<Scene> {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir(), { isEncrypted: true }));
  const disk = new ModelDisk(CHUNKS * CHUNK, new Dice(7));
  disk.fillWithNoise();
  const point = await writePoint(fixture.repository, { disks: { vda: disk } });
  const map = new MapReader(keyFromHex(point.disks[0]?.root ?? ''), fixture.repository.reader);
  const keys: ContentKey[] = [];
  for (let chunk = 0; chunk < CHUNKS; chunk++) keys.push(await map.chunkKey(chunk));
  const places = keys.map((key) => {
    const place = fixture.catalog.find(key);
    invariant(place !== undefined, 'each chunk is in the index');
    return place;
  });
  const packPath = join(fixture.directory, 'repository', packKey(places[0]?.packId ?? assert.fail()));
  return { fixture, disk, keys, places, packPath };
}

/** What each read gave, all asked for in one turn: the chunk was right, or the code of the error. */
async function readAll({ fixture, disk, keys }: Scene): Promise<string[]> {
  const into = Buffer.from(new SharedArrayBuffer(CHUNKS * CHUNK));
  const reads = keys.map((key, n) =>
    fixture.repository.reader.readChunk(key, 0, into.subarray(n * CHUNK, (n + 1) * CHUNK)),
  );
  const settled = await Promise.allSettled(reads);
  return settled.map((one, n) => {
    if (one.status === 'rejected') return hasCode(one.reason, 'REPOSITORY_CORRUPT') ? 'corrupt' : String(one.reason);
    const part = into.subarray(n * CHUNK, (n + 1) * CHUNK);
    return part.equals(disk.content.subarray(n * CHUNK, (n + 1) * CHUNK)) ? 'right' : 'wrong';
  });
}

const test = suite('chunk reader');

test('the frames of a disk lie one behind the other, and are all read right at once', async (t) => {
  const scene = await makeScene(t);
  const neighbours = scene.places.filter((place, n) => {
    const before = scene.places[n - 1];
    return before !== undefined && before.offset + before.frameBytes === place.offset;
  });
  assert.ok(neighbours.length >= CHUNKS - 3, `${neighbours.length} of ${CHUNKS} chunks follow their neighbour`);
  assert.deepEqual(
    await readAll(scene),
    Array.from({ length: CHUNKS }, () => 'right'),
  );
});

test('of neighbours that are read in one piece only the damaged one fails', async (t) => {
  const scene = await makeScene(t);
  const victim = 5;
  const file = await open(scene.packPath, 'r+');
  try {
    await file.write(Buffer.from([0x55, 0xaa]), 0, 2, (scene.places[victim]?.offset ?? 0) + 1_000);
  } finally {
    await file.close();
  }
  const expected = Array.from({ length: CHUNKS }, (_, n) => (n === victim ? 'corrupt' : 'right'));
  assert.deepEqual(await readAll(scene), expected);
});

test('of a pack that lost its end, what is still there is read', async (t) => {
  const scene = await makeScene(t);
  const cut = scene.places[13];
  assert.ok(cut !== undefined);
  await truncate(scene.packPath, cut.offset + 10);
  const isThere = ({ offset }: ChunkLocation): boolean => offset < cut.offset;
  assert.deepEqual(
    await readAll(scene),
    scene.places.map((place) => (isThere(place) ? 'right' : 'corrupt')),
  );
});
