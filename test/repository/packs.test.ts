// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import fc from 'fast-check';
import { keyAt } from '../../appliance/core/content-id.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { realFileSystem } from '../../appliance/core/file-system.ts';
import { type PackId, parsePackId } from '../../appliance/core/ids.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import {
  FRAME_HEADER_BYTES,
  MAX_PACK_BYTES,
  PACK_HEADER_BYTES,
  PACK_TRAILER_BYTES,
} from '../../appliance/repository/format.ts';
import {
  decodePackEntries,
  decodePackTrailer,
  encodePackFooter,
  type PackEntry,
  packFooterBytes,
} from '../../appliance/repository/pack-format.ts';
import { packIdOf, readPackContents } from '../../appliance/repository/pack-reader.ts';
import { PackWriter, packKey } from '../../appliance/repository/pack-writer.ts';
import { suite } from '../support/suite.ts';

const REPOSITORY_ID = '00112233445566778899aabbccddeeff';
const PACK_ID: PackId = parsePackId('ffeeddccbbaa99887766554433221100');

function isCorrupt(error: unknown): boolean {
  return hasCode(error, 'REPOSITORY_CORRUPT');
}

const bytes32 = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes));
const entryList = fc
  .array(
    fc.record({
      id: bytes32,
      checksum: fc.nat(),
      kind: fc.constantFrom(1 as const, 2 as const),
      frameBytes: fc.integer({ min: FRAME_HEADER_BYTES + 1, max: 70_000 }),
      plainBytes: fc.integer({ min: 1, max: 4 * 1024 * 1024 }),
    }),
    { maxLength: 40 },
  )
  .map((list) => {
    let offset = PACK_HEADER_BYTES;
    return list.map((one): PackEntry => {
      const entry = { ...one, id: keyAt(one.id), offset };
      offset += one.frameBytes;
      return entry;
    });
  });

function footerOf(entries: readonly PackEntry[]): { footer: Buffer; footerOffset: number; packBytes: number } {
  const last = entries.at(-1);
  const footerOffset = last === undefined ? PACK_HEADER_BYTES : last.offset + last.frameBytes;
  const footer = encodePackFooter(PACK_ID, entries, footerOffset);
  return { footer, footerOffset, packBytes: footerOffset + footer.length };
}

function decodeFooter(footer: Buffer, packBytes: number): PackEntry[] {
  const trailer = decodePackTrailer(footer.subarray(-PACK_TRAILER_BYTES), PACK_ID, packBytes);
  return decodePackEntries(footer.subarray(0, -PACK_TRAILER_BYTES), trailer, PACK_ID);
}

const test = suite('packs');

test('a footer decodes to the entries that were encoded', () => {
  fc.assert(
    fc.property(entryList, (entries) => {
      const { footer, packBytes } = footerOf(entries);
      assert.deepEqual(decodeFooter(footer, packBytes), entries);
      assert.equal(footer.length, packFooterBytes(entries.length));
    }),
    { numRuns: 200 },
  );
});

test('any changed byte of a footer is noticed', () => {
  fc.assert(
    fc.property(entryList, fc.nat(), fc.integer({ min: 1, max: 255 }), (entries, at, mask) => {
      const { footer, packBytes } = footerOf(entries);
      const offset = at % footer.length;
      footer.writeUInt8(footer.readUInt8(offset) ^ mask, offset);
      assert.throws(() => decodeFooter(footer, packBytes), isCorrupt);
    }),
    { numRuns: 2_000 },
  );
});

test('a footer that lists frames outside of the pack is refused, also with a right digest', () => {
  const entry: PackEntry = {
    id: keyAt(Buffer.alloc(32, 1)),
    checksum: 0,
    kind: 1,
    offset: 64,
    frameBytes: 100,
    plainBytes: 100,
  };
  const bad: readonly Partial<PackEntry>[] = [
    { offset: 63 },
    { frameBytes: 101 },
    { frameBytes: 2 ** 32 - 1 },
    { plainBytes: 0 },
    { plainBytes: 5 * 1024 * 1024 },
    { frameBytes: FRAME_HEADER_BYTES },
  ];
  for (const change of bad) {
    const footer = encodePackFooter(PACK_ID, [{ ...entry, ...change }], 164);
    assert.throws(() => decodeFooter(footer, 164 + footer.length), isCorrupt, JSON.stringify(change));
  }
});

test('reservations never let a pack grow beyond its limit, footer included', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  const writer = await PackWriter.create(store, realFileSystem, REPOSITORY_ID);
  const bound = 16 * (64 * 1024 + FRAME_HEADER_BYTES);
  let reserved = 0;
  while (writer.reserve(16, bound) !== undefined) reserved += 1;
  assert.ok(PACK_HEADER_BYTES + reserved * bound + packFooterBytes(16 * reserved) <= MAX_PACK_BYTES);
  assert.ok(reserved > 120, `${reserved} MiB`);
  await writer.abandon(realFileSystem);
  assert.equal(await store.removeStaged(), 0);
});

test('a pack that was abandoned is not part of the repository', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  const writer = await PackWriter.create(store, realFileSystem, REPOSITORY_ID);
  await writer.abandon(realFileSystem);
  assert.deepEqual(await store.list('packs/'), []);
});

test('an empty pack is sealed and read', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  const writer = await PackWriter.create(store, realFileSystem, REPOSITORY_ID);
  const packBytes = await writer.seal();
  const [object] = await store.list('packs/');
  assert.equal(object?.key, packKey(writer.packId));
  assert.equal(object?.sizeBytes, packBytes);
  const contents = await readPackContents(store, REPOSITORY_ID, { packId: writer.packId, packBytes });
  assert.deepEqual([contents.entries, contents.headerDamage, contents.footerDamage], [[], undefined, undefined]);
});

test('a file that is too short to be a pack has no frames, and says so', async (t) => {
  const directory = await t.tempDir();
  const store = await DirectoryStore.open(directory);
  for (const length of [0, 1, 63, 64, 100]) {
    const packId = parsePackId(length.toString(16).padStart(32, '0'));
    await store.put(packKey(packId), Buffer.alloc(length));
    const contents = await readPackContents(store, REPOSITORY_ID, { packId, packBytes: length });
    assert.deepEqual(contents.entries, []);
    assert.ok(contents.headerDamage !== undefined && contents.footerDamage !== undefined);
  }
  assert.ok(join(directory, 'packs').length > 0);
});

test('only names of the right form and folder are packs', () => {
  assert.equal(packIdOf(packKey(PACK_ID)), PACK_ID);
  for (const key of [
    `packs/00/${PACK_ID}`,
    `packs/${PACK_ID}`,
    `packs/ff/${PACK_ID}x`,
    `packs/ff/a/${PACK_ID}`,
    `points/ff/${PACK_ID}`,
  ]) {
    assert.equal(packIdOf(key), undefined, key);
  }
});
