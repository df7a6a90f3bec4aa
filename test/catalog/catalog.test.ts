// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import fc from 'fast-check';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { type ContentKey, keyAt } from '../../appliance/core/content-id.ts';
import { type PackId, parsePackId, parsePointId } from '../../appliance/core/ids.ts';
import type { ChunkLocation } from '../../appliance/repository/chunk-index.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import type { PackEntry } from '../../appliance/repository/pack-format.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

function idOf(n: number): ContentKey {
  return keyAt(createHash('sha256').update(`content ${n}`).digest());
}

function packOf(n: number): PackId {
  return parsePackId(n.toString(16).padStart(32, '0'));
}

function entryOf(content: number, offset: number): PackEntry {
  return { id: idOf(content), kind: 1, offset, frameBytes: 100, plainBytes: 65_536, checksum: 0 };
}

/** What the catalog must answer, in plain maps. */
class Model {
  readonly packs: Map<number, readonly number[]> = new Map();
  readonly places: Map<number, { readonly pack: number; readonly offset: number }> = new Map();
  readonly damages: Map<number, { readonly pack: number; readonly offset: number }> = new Map();

  add(pack: number, contents: readonly number[]): void {
    this.packs.set(pack, contents);
    for (const [n, content] of contents.entries()) {
      const offset = 64 + n * 100;
      const damage = this.damages.get(content);
      if (damage?.pack === pack && damage.offset === offset) continue;
      this.damages.delete(content);
      this.places.set(content, { pack, offset });
    }
  }

  remove(pack: number): void {
    this.packs.delete(pack);
    for (const [content, place] of this.places) if (place.pack === pack) this.places.delete(content);
    for (const [content, place] of this.damages) if (place.pack === pack) this.damages.delete(content);
  }

  damage(content: number): void {
    const place = this.places.get(content);
    if (place === undefined) return;
    this.places.delete(content);
    this.damages.set(content, place);
  }

  repair(content: number): void {
    const place = this.damages.get(content);
    if (place === undefined) return;
    this.damages.delete(content);
    this.places.set(content, place);
  }
}

const CONTENTS = 24;
const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ add: fc.nat(7), contents: fc.uniqueArray(fc.nat(CONTENTS - 1), { maxLength: 8 }) }),
  },
  { weight: 2, arbitrary: fc.record({ remove: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ damage: fc.nat(CONTENTS - 1) }) },
  { weight: 1, arbitrary: fc.record({ repair: fc.nat(CONTENTS - 1) }) },
  { weight: 1, arbitrary: fc.constant('reopen' as const) },
);

async function assertSame(catalog: Catalog, model: Model): Promise<void> {
  const contents = Array.from({ length: CONTENTS }, (_, n) => n);
  const strip = (place: ChunkLocation | undefined): unknown =>
    place === undefined ? undefined : { pack: Number.parseInt(place.packId, 16), offset: place.offset };
  const found = await catalog.findMany(contents.map(idOf));
  assert.deepEqual(
    found.map(strip),
    contents.map((content) => model.places.get(content)),
  );
  for (const content of contents) {
    const expected = model.places.get(content) ?? model.damages.get(content);
    assert.deepEqual(strip(catalog.find(idOf(content))), expected);
  }
  assert.deepEqual([...(await catalog.packs()).keys()].sort(), [...model.packs.keys()].map(packOf).sort());
  assert.equal(catalog.damages().size, model.damages.size);
}

const test = suite('catalog');

test('it answers as plain maps do, under any changes, also after being opened again', async (t) => {
  let round = 0;
  const root = await t.tempDir();
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      round += 1;
      const directory = join(root, String(round));
      let catalog = await Catalog.open(directory);
      const model = new Model();
      let packs = 0;
      try {
        for (const one of steps) {
          if (one === 'reopen') {
            await catalog.close();
            catalog = await Catalog.open(directory);
          } else if ('add' in one) {
            packs += 1;
            const pack = packs;
            const entries = one.contents.map((content, n) => entryOf(content, 64 + n * 100));
            await catalog.addPack(packOf(pack), { packBytes: 1, frames: entries.length, plainBytes: 1 }, entries);
            model.add(pack, one.contents);
          } else if ('remove' in one) {
            const pack = [...model.packs.keys()][one.remove];
            if (pack === undefined) continue;
            await catalog.removePack(packOf(pack), (model.packs.get(pack) ?? []).map(idOf));
            model.remove(pack);
          } else if ('damage' in one) {
            await catalog.markDamaged(idOf(one.damage), 'a test');
            model.damage(one.damage);
          } else {
            await catalog.clearDamage(idOf(one.repair));
            model.repair(one.repair);
          }
        }
        await assertSame(catalog, model);
      } finally {
        await catalog.close();
      }
    }),
    { numRuns: 40 },
  );
});

test('entries of a pack without a record are not answered, and can be purged', async (t) => {
  await using catalog = await Catalog.open(join(await t.tempDir(), 'catalog'));
  const info = { packBytes: 1, frames: 2, plainBytes: 2 };
  await catalog.addPack(packOf(1), info, [entryOf(1, 64), entryOf(2, 164)]);
  await catalog.addPack(packOf(2), info, [entryOf(3, 64)]);
  await catalog.removePack(packOf(1), []);
  assert.deepEqual(await catalog.findMany([idOf(1), idOf(2)]), [undefined, undefined]);
  assert.equal(catalog.find(idOf(1)), undefined);
  assert.deepEqual((await catalog.purgeDangling()).toSorted(), [idOf(1), idOf(2)].toSorted());
  assert.deepEqual(await catalog.purgeDangling(), []);
  assert.ok(catalog.find(idOf(3)) !== undefined);
});

test('a damaged content is read from its damaged place, but not deduplicated against', async (t) => {
  await using catalog = await Catalog.open(join(await t.tempDir(), 'catalog'));
  await catalog.addPack(packOf(1), { packBytes: 1, frames: 1, plainBytes: 1 }, [entryOf(1, 64)]);
  await catalog.markDamaged(idOf(1), 'a test');
  assert.deepEqual(await catalog.findMany([idOf(1)]), [undefined]);
  assert.equal(catalog.find(idOf(1))?.packId, packOf(1));
});

test('records are kept by name, and notes too', async (t) => {
  const directory = join(await t.tempDir(), 'catalog');
  {
    await using catalog = await Catalog.open(directory);
    await catalog.putRecord('session/', 'a', { port: 1 });
    await catalog.putRecord('session/', 'b', [2]);
    await catalog.deleteRecord('session/', 'b');
    await catalog.putNote('clock', { seenMs: 3 });
  }
  await using catalog = await Catalog.open(directory);
  assert.deepEqual([...(await catalog.records('session/'))], [['a', { port: 1 }]]);
  assert.deepEqual(await catalog.note('clock'), { seenMs: 3 });
  assert.equal(await catalog.note('other'), undefined);
});

test('a second opening is refused, and a closed catalog says so', async (t) => {
  const directory = join(await t.tempDir(), 'catalog');
  const catalog = await Catalog.open(directory);
  await rejectsWith(Catalog.open(directory), 'LOCKED');
  await catalog.close();
  await rejectsWith(catalog.points(), 'CLOSED');
  await rejectsWith(catalog.findMany([idOf(1)]), 'CLOSED');
});

test('the points are read once, and anew after each change, whoever read meanwhile', async (t) => {
  const directory = join(await t.tempDir(), 'catalog');
  const catalog = t.use(await Catalog.open(directory));
  const pointOf = (n: number): RecoveryPoint =>
    ({ id: parsePointId(n.toString(16).padStart(16, '0')), sequence: n }) as RecoveryPoint;
  const idsOf = async (): Promise<readonly string[][]> => {
    const { listed, lost } = await catalog.pointLists();
    return [listed.map(({ id }) => id), lost.map(({ id }) => id)];
  };
  const [one, two] = [pointOf(1), pointOf(2)];
  assert.deepEqual(await idsOf(), [[], []]);
  await Promise.all([catalog.putPoint(one), catalog.pointLists(), catalog.putPoint(two), catalog.pointLists()]);
  assert.deepEqual(await idsOf(), [[one.id, two.id], []]);
  assert.equal(await catalog.pointLists(), await catalog.pointLists());
  (await catalog.points()).length = 0;
  await catalog.losePoint(one);
  assert.deepEqual(await idsOf(), [[two.id], [one.id]]);
  await catalog.forgetLostPoint(one.id);
  await catalog.deletePoint(two.id);
  assert.deepEqual(await idsOf(), [[], []]);
});
