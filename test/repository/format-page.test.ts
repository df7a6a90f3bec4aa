// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { keyAt, keyToHex } from '../../appliance/core/content-id.ts';
import { parseMachineId, parsePackId, parsePointId } from '../../appliance/core/ids.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import {
  DEFAULT_CHUNK_BYTES,
  FRAME_CIPHER,
  FRAME_CODEC,
  FRAME_KIND,
  NODE_BYTES,
  PACK_ENTRY_BYTES,
  PACK_HEADER_BYTES,
  PACK_TRAILER_BYTES,
} from '../../appliance/repository/format.ts';
import { readFrameHeader } from '../../appliance/repository/frame.ts';
import { FrameCodec } from '../../appliance/repository/frame-codec.ts';
import { contentId, deriveKeys, derivePackKey } from '../../appliance/repository/keys.ts';
import { LIVED_TIME_KEY, readLivedTime } from '../../appliance/repository/lived-time.ts';
import { decodeManifest, encodeManifest } from '../../appliance/repository/manifest.ts';
import { checkNode, childKey, dataChunksOf } from '../../appliance/repository/node.ts';
import {
  decodePackEntries,
  decodePackTrailer,
  encodePackFooter,
  encodePackHeader,
  type PackEntry,
} from '../../appliance/repository/pack-format.ts';
import { decodeGuard, encodeGuard } from '../../appliance/repository/point-guard.ts';
import { formatRecoveryKey } from '../../appliance/repository/recovery-key.ts';
import { hexExample } from '../support/hex-example.ts';
import { suite } from '../support/suite.ts';

const REPOSITORY_ID = '101112131415161718191a1b1c1d1e1f';
const PACK_ID = parsePackId('202122232425262728292a2b2c2d2e2f');
const MASTER_KEY: Buffer = Buffer.from(Array.from({ length: 32 }, (_, n) => n));

async function page(name: string): Promise<string> {
  return readFile(new URL(`../../docs/formats/${name}.md`, import.meta.url), 'utf8');
}

async function examplePack(): Promise<{ pack: Buffer; entries: PackEntry[] }> {
  const pack = hexExample(await page('repository'), 'Example pack');
  const trailer = decodePackTrailer(pack.subarray(-PACK_TRAILER_BYTES), PACK_ID, pack.length);
  const entries = decodePackEntries(pack.subarray(trailer.footerOffset, -PACK_TRAILER_BYTES), trailer, PACK_ID);
  return { pack, entries };
}

function plainOf(pack: Buffer, entry: PackEntry): Buffer {
  const keys = deriveKeys(MASTER_KEY, REPOSITORY_ID, true);
  const into = Buffer.alloc(DEFAULT_CHUNK_BYTES);
  const frame = pack.subarray(entry.offset, entry.offset + entry.frameBytes);
  const decodeKeys = { ...keys, pack: derivePackKey(keys.packRoot, PACK_ID), verify: 'id' } as const;
  const length = new FrameCodec(1).decode(frame, Buffer.from(entry.id, 'latin1'), decodeKeys, into);
  return into.subarray(0, length);
}

const test = suite('the format pages');

test("the example pack's header and footer are the ones that the program writes", async () => {
  const { pack, entries } = await examplePack();
  assert.deepEqual(pack.subarray(0, PACK_HEADER_BYTES), encodePackHeader(REPOSITORY_ID, PACK_ID));
  const footerOffset = pack.length - PACK_TRAILER_BYTES - entries.length * PACK_ENTRY_BYTES;
  assert.deepEqual(pack.subarray(footerOffset), encodePackFooter(PACK_ID, entries, footerOffset));
});

test("the example pack's entries lie one after the other, with the checksums of their frames", async () => {
  const { pack, entries } = await examplePack();
  assert.deepEqual(
    entries.map(({ kind, offset, frameBytes, plainBytes }) => ({ kind, offset, frameBytes, plainBytes })),
    [
      { kind: FRAME_KIND.chunk, offset: 64, frameBytes: 115, plainBytes: 65_536 },
      { kind: FRAME_KIND.node, offset: 179, frameBytes: 145, plainBytes: NODE_BYTES },
    ],
  );
  for (const { offset, frameBytes, checksum } of entries) {
    assert.equal(crc32(pack.subarray(offset, offset + frameBytes)), checksum);
  }
});

test("the example's frames say what the page says", async () => {
  const { pack, entries } = await examplePack();
  assert.deepEqual(
    entries.map(({ offset }) => readFrameHeader(pack.subarray(offset, offset + 80))),
    [
      {
        kind: FRAME_KIND.chunk,
        codec: FRAME_CODEC.zstd,
        cipher: FRAME_CIPHER.aes256gcm,
        plainBytes: 65_536,
        payloadBytes: 35,
        frameIndex: 0,
      },
      {
        kind: FRAME_KIND.node,
        codec: FRAME_CODEC.zstd,
        cipher: FRAME_CIPHER.aes256gcm,
        plainBytes: NODE_BYTES,
        payloadBytes: 65,
        frameIndex: 1,
      },
    ],
  );
});

test("the example's chunk decodes to its content", async () => {
  const { pack, entries } = await examplePack();
  const [chunk] = entries;
  assert.ok(chunk !== undefined);
  const expected = Buffer.alloc(DEFAULT_CHUNK_BYTES);
  expected.write('Hello, disk!');
  assert.ok(plainOf(pack, chunk).equals(expected));
});

test("the map page's node is the one of the example pack, and names its chunk", async () => {
  const { pack, entries } = await examplePack();
  const [chunk, node] = entries;
  assert.ok(chunk !== undefined && node !== undefined);
  const shown = Buffer.alloc(NODE_BYTES);
  hexExample(await page('map'), 'Example node').copy(shown);
  assert.ok(plainOf(pack, node).equals(shown));
  checkNode(shown, 0);
  assert.equal(dataChunksOf(shown), 1);
  assert.equal(childKey(shown, 0), chunk.id);
  const id = contentId(deriveKeys(MASTER_KEY, REPOSITORY_ID, true).nodeId, shown);
  assert.ok((await page('map')).includes(keyToHex(keyAt(id))));
});

test('the recovery key of the repository page is that of the bytes it names', async () => {
  const key = formatRecoveryKey(Buffer.from(Array.from({ length: 20 }, (_, n) => n)));
  assert.ok((await page('repository')).includes(`\`${key}\``));
});

test("the example manifest is the one that the program writes, with its point's place in the journal", async () => {
  const { manifest: key } = deriveKeys(MASTER_KEY, REPOSITORY_ID, true);
  const shown = /### Example manifest[^]*?```json\n([^]*?)```/.exec(await page('repository'))?.[1] ?? '';
  const point = decodeManifest(Buffer.from(shown), key, 'example');
  assert.equal(encodeManifest(point, key).toString(), shown);
  assert.deepEqual(point.journal, {
    logId: '505152535455565758595a5b5c5d5e5f',
    sequence: 123_456,
    timeUs: Date.parse(point.createdAt) * 1000,
    disks: { vda: 0 },
  });
});

test('the example lock and its record of the time are those that the program writes', async (t) => {
  const { manifest: key } = deriveKeys(MASTER_KEY, REPOSITORY_ID, true);
  const section = (await page('repository')).split('### Example lock')[1] ?? '';
  const [lock = '', clock = ''] = [...section.matchAll(/```json\n([^]*?)```/g)].map((match) => match[1]);
  const point = {
    machineId: parseMachineId('40414243-4445-4647-8849-4a4b4c4d4e4f'),
    pointId: parsePointId('3031323334353637'),
  };
  const guard = decodeGuard(Buffer.from(lock), key, { kind: 'lock', point });
  assert.equal(encodeGuard(guard, key).toString(), lock);
  assert.equal((guard.untilLivedMs ?? 0) - guard.sinceLivedMs, Date.parse(guard.until ?? '') - Date.parse(guard.since));
  const store = await DirectoryStore.open(await t.tempDir());
  await store.put(LIVED_TIME_KEY, Buffer.from(clock));
  assert.equal((await readLivedTime(store, key))?.livedMs, guard.sinceLivedMs);
});
