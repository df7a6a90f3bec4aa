// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { type ContentKey, keyAt } from '../../appliance/core/content-id.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { type PackId, parsePackId } from '../../appliance/core/ids.ts';
import type { PackEntry } from '../../appliance/repository/pack-format.ts';
import { Dice } from '../support/point-model.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { MOUNT_REQUIREMENTS, SmallFileSystem } from '../support/small-file-system.ts';
import { suite } from '../support/suite.ts';

const test = suite('a catalog whose disk was full', { requires: MOUNT_REQUIREMENTS, timeoutMs: 60_000 });
const MIB = 1024 * 1024;
const FRAMES = 400;
const INFO = { packBytes: 1, frames: FRAMES, plainBytes: 1 };

const packOf = (n: number): PackId => parsePackId(n.toString(16).padStart(32, '0'));
const idOf = (text: string): ContentKey => keyAt(createHash('sha256').update(text).digest());
const entriesOf = (pack: number): PackEntry[] =>
  Array.from({ length: FRAMES }, (_, n) => ({
    id: idOf(`${pack} ${n}`),
    kind: 1,
    offset: n,
    frameBytes: 100,
    plainBytes: 65_536,
    checksum: 0,
  }));

/** Adds packs until a write fails, and returns how many were added. */
async function addUntilFull(catalog: Catalog, from: number): Promise<number> {
  for (let n = from; n < 10_000; n++) {
    try {
      await catalog.addPack(packOf(n), INFO, entriesOf(n));
    } catch (error) {
      if (!hasCode(error, 'NO_SPACE')) throw error;
      return n;
    }
  }
  throw new Error('there was always room');
}

async function assertHolds(catalog: Catalog, packs: number): Promise<void> {
  assert.deepEqual(
    [...(await catalog.packs()).keys()].sort(),
    Array.from({ length: packs }, (_, n) => packOf(n)).sort(),
  );
  for (let n = 0; n < packs; n++) {
    const entries = entriesOf(n);
    const found = await catalog.findMany(entries.map(({ id }) => id));
    assert.ok(
      found.every((place, i) => place?.packId === packOf(n) && place.offset === i),
      `pack ${n} of ${packs}`,
    );
    assert.equal(catalog.find(idOf(`${n} 0`))?.packId, packOf(n));
  }
  assert.deepEqual(await catalog.findMany([idOf(`${packs} 0`), idOf(`${packs} ${FRAMES - 1}`)]), [
    undefined,
    undefined,
  ]);
}

test('answers while it is full, takes writes again when there is room, and has lost nothing that it took', async (t) => {
  const directory = await t.tempDir();
  const room = t.use(await SmallFileSystem.mount(join(directory, 'small'), 24 * MIB));
  const path = join(room.path, 'catalog');
  const catalog = await Catalog.open(path);
  await using _ = { [Symbol.asyncDispose]: () => catalog.close() };
  await catalog.addPack(packOf(0), INFO, entriesOf(0));
  let packs = 1;
  const dice = new Dice(3);
  for (let round = 0; round < 6; round++) {
    for (let n = dice.below(30); n > 0; n--) await catalog.addPack(packOf(packs), INFO, entriesOf(packs++));
    await room.fill();
    packs = await addUntilFull(catalog, packs);
    await assertHolds(catalog, packs);
    await rejectsWith(catalog.putNote('anything', 1), 'NO_SPACE');
    await rejectsWith(
      catalog.removePack(
        packOf(0),
        entriesOf(0).map(({ id }) => id),
      ),
      'NO_SPACE',
    );
    await assertHolds(catalog, packs);
    await room.release();
    // Reads, and more than one write, find the catalog as it is opened again.
    const ids = entriesOf(0).map(({ id }) => id);
    const reads = Array.from({ length: 20 }, async () => {
      assert.equal((await catalog.findMany(ids)).filter((place) => place?.packId === packOf(0)).length, FRAMES);
      await catalog.ready();
      assert.equal(catalog.find(idOf('0 1'))?.packId, packOf(0));
    });
    const next = packs;
    await Promise.all([
      ...reads,
      catalog.putNote('round', round),
      catalog.addPack(packOf(next), INFO, entriesOf(next)),
      catalog.points(),
    ]);
    packs += 1;
    await assertHolds(catalog, packs);
  }
  await catalog.close();
  await using again = await Catalog.open(path);
  await assertHolds(again, packs);
  assert.equal(await again.note('round'), 5);
  assert.equal(await again.note('anything'), undefined);
});

test('a closed one stays closed', async (t) => {
  const catalog = await Catalog.open(join(await t.tempDir(), 'catalog'));
  await catalog.close();
  assert.equal(catalog.ready(), undefined);
  await rejectsWith(catalog.putNote('a', 1), 'CLOSED');
  await rejectsWith(catalog.points(), 'CLOSED');
});
