// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import type { PackId } from '../../appliance/core/ids.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { packKey } from '../../appliance/repository/pack-writer.ts';
import { type ScrubSliceResult, scrubSlice } from '../../appliance/repository/scrub-slice.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { Dice } from '../support/point-model.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('scrub in slices');
const MIB: number = 1024 * 1024;

async function withPoints(
  t: TestContext,
  count: number,
): Promise<{ readonly fixture: FixtureRepository; readonly points: readonly RecoveryPoint[] }> {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const points: RecoveryPoint[] = [];
  for (let n = 0; n < count; n++) {
    const disk = memoryDevice({ sizeBytes: MIB });
    await disk.write(0, new Dice(n + 1).bytes(MIB));
    points.push(await fixture.addPoint({ disks: { vda: disk } }));
  }
  return { fixture, points };
}

function slice({ repository, catalog }: FixtureRepository, after?: PackId, sliceBytes = 1): Promise<ScrubSliceResult> {
  return scrubSlice(repository, catalog, { after, sliceBytes });
}

async function flipByte(fixture: FixtureRepository, packId: PackId): Promise<void> {
  const path = join(fixture.directory, 'repository', packKey(packId));
  const file = await open(path, 'r+');
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, 5_000);
  byte.writeUInt8(byte.readUInt8(0) ^ 1);
  await file.write(byte, 0, 1, 5_000);
  await file.close();
}

test('a round of slices reads every pack once, whatever their size', async (t) => {
  const { fixture } = await withPoints(t, 5);
  const packs = await fixture.catalog.packs();
  for (const sliceBytes of [1, 2 * MIB, 100 * MIB]) {
    const seen: PackId[] = [];
    let readBytes = 0;
    let after: PackId | undefined;
    do {
      const result = await slice(fixture, after, sliceBytes);
      assert.deepEqual([result.findings, result.points], [[], 5]);
      assert.ok(result.packs.length > 0);
      seen.push(...result.packs);
      readBytes += result.readBytes;
      after = result.after;
    } while (after !== undefined);
    assert.deepEqual(seen, [...packs.keys()].sort());
    const frameBytes = [...packs.values()].reduce((sum, { packBytes }) => sum + packBytes, 0);
    assert.ok(readBytes > 0.95 * frameBytes && readBytes <= frameBytes);
  }
});

test('damage is found in the slice that reads it, and names the point that it touches', async (t) => {
  const { fixture, points } = await withPoints(t, 3);
  const packs = [...(await fixture.catalog.packs()).keys()].sort();
  const damaged = packs[1] as PackId;
  await flipByte(fixture, damaged);
  assert.deepEqual((await slice(fixture)).findings, []);
  const { findings } = await slice(fixture, packs[0]);
  assert.equal(findings[0]?.object, packKey(damaged));
  const touched = new Set(findings.flatMap(({ touches }) => touches.map(({ pointId }) => pointId)));
  assert.equal(touched.size, 1);
  assert.ok(points.some(({ id }) => touched.has(id)));
  assert.deepEqual((await slice(fixture, damaged)).findings, []);
});

test('a manifest that is damaged is found by every slice', async (t) => {
  const { fixture, points } = await withPoints(t, 2);
  const [point] = points as [RecoveryPoint];
  const path = join(fixture.directory, 'repository', 'points', point.machine.id, `${point.id}.json`);
  const bytes = await readFile(path);
  await writeFile(path, bytes.subarray(0, 100));
  const first = await slice(fixture);
  assert.equal(first.findings.length, 1);
  assert.equal((await slice(fixture, first.after)).findings.length, 1);
  await writeFile(path, bytes);
  assert.deepEqual((await slice(fixture)).findings, []);
});

test('an aborted slice ends, and runs beside no collection', async (t) => {
  const { fixture } = await withPoints(t, 2);
  const { repository, catalog } = fixture;
  const options = { after: undefined, sliceBytes: 1, signal: AbortSignal.abort() };
  await rejectsWith(scrubSlice(repository, catalog, options), 'ABORTED');
  repository.beginCollection('a garbage collection');
  await rejectsWith(slice(fixture), 'LOCKED');
  repository.endCollection();
  assert.deepEqual((await slice(fixture)).findings, []);
});

test('an empty repository is a round of its own', async (t) => {
  const { fixture } = await withPoints(t, 0);
  const result = await slice(fixture);
  assert.deepEqual([result.after, result.packs, result.findings], [undefined, [], []]);
});
