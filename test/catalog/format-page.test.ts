// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { binaryKey, PREFIX, textKey } from '../../appliance/catalog/keys.ts';
import { decodeLocation, decodeRecord, encodeLocation, encodeRecord } from '../../appliance/catalog/records.ts';
import { keyAt, keyBytes } from '../../appliance/core/content-id.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { parsePackId } from '../../appliance/core/ids.ts';
import { hexExample } from '../support/hex-example.ts';
import { suite } from '../support/suite.ts';
import { quoted, tableBelow } from '../tidy/source-tree.ts';

const PACK_ID = parsePackId('202122232425262728292a2b2c2d2e2f');

async function example(heading: string): Promise<Buffer> {
  return hexExample(await readFile(new URL('../../docs/formats/catalog.md', import.meta.url), 'utf8'), heading);
}

const test = suite('the catalog page');

test("the example's key and location decode to what the page says, and encode to the same bytes", async () => {
  const key = await example('Example key');
  const id = keyAt(key, PREFIX.chunk.length);
  assert.deepEqual(binaryKey(PREFIX.chunk, keyBytes(id)), key);
  const value = await example('Example location');
  const location = decodeLocation(id, value);
  assert.deepEqual(location, { packId: PACK_ID, kind: 1, offset: 64, frameBytes: 115, plainBytes: 65_536 });
  assert.deepEqual(encodeLocation(id, location), value);
});

test("the example's record decodes to what the page says, and encodes to the same bytes", async () => {
  const key = textKey(PREFIX.pack, PACK_ID);
  const value = await example('Example record');
  const info = decodeRecord(key, value);
  assert.deepEqual(info, { packBytes: 548, frames: 2, plainBytes: 67_600 });
  assert.deepEqual(encodeRecord(key, info), value);
});

test('any flipped bit of a location or a record is noticed, and so is another key', async () => {
  const id = keyAt(await example('Example key'), PREFIX.chunk.length);
  const location = await example('Example location');
  const key = textKey(PREFIX.pack, PACK_ID);
  const record = await example('Example record');
  const isDamage = (error: unknown): boolean => hasCode(error, 'CATALOG_DAMAGED');
  for (const [value, decode] of [
    [location, (bytes: Buffer) => decodeLocation(id, bytes)],
    [record, (bytes: Buffer) => decodeRecord(key, bytes)],
  ] as const) {
    for (let bit = 0; bit < value.length * 8; bit++) {
      const flipped = Buffer.from(value);
      flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      assert.throws(() => decode(flipped), isDamage);
    }
  }
  assert.throws(() => decodeLocation(keyAt(Buffer.alloc(32, 1)), location), isDamage);
  assert.throws(() => decodeRecord(textKey(PREFIX.point, PACK_ID), record), isDamage);
});

test('the table of keys names every prefix', () => {
  const named = tableBelow('docs/formats/catalog.md', 'Keys').map(
    ([cell = '']) => `${quoted(cell)[0]?.split('/')[0]}/`,
  );
  assert.deepEqual([...new Set(named)].sort(), Object.values<string>(PREFIX).sort());
});
