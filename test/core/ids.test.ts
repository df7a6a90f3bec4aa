// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  CONTENT_ID_BYTES,
  isZeroId,
  keyAt,
  keyBytes,
  keyFromHex,
  keyToHex,
  ZERO_KEY,
} from '../../appliance/core/content-id.ts';
import {
  isPackId,
  newPackId,
  newPointId,
  parseMachineId,
  parsePackId,
  parsePointId,
} from '../../appliance/core/ids.ts';
import { suite } from '../support/suite.ts';

const test = suite('ids');

test('new ids are accepted by their parsers, and no two are the same', () => {
  const points = Array.from({ length: 1_000 }, newPointId);
  const packs = Array.from({ length: 1_000 }, newPackId);
  assert.deepEqual(points.map(parsePointId), points);
  assert.deepEqual(packs.map(parsePackId), packs);
  assert.equal(new Set([...points, ...packs]).size, 2_000);
});

test('ids that could lead out of a folder, or differ only in case or length, are refused', () => {
  const point = '0123456789abcdef';
  for (const text of [
    '',
    '../../etc/passw',
    point.toUpperCase(),
    `${point}0`,
    point.slice(1),
    `${point}\n`,
    ` ${point}`,
  ]) {
    assert.throws(() => parsePointId(text), { code: 'BAD_ARGUMENT' });
    assert.throws(() => parsePackId(text), { code: 'BAD_ARGUMENT' });
    assert.throws(() => parseMachineId(text), { code: 'BAD_ARGUMENT' });
    assert.equal(isPackId(text), false);
  }
});

test('a machine id is a UUID in lower case', () => {
  const uuid = '6f0f2c1e-9d5a-4b0c-8a57-0123456789ab';
  assert.equal(parseMachineId(uuid), uuid);
  assert.throws(() => parseMachineId(uuid.replaceAll('-', '')), { code: 'BAD_ARGUMENT' });
});

test('a content id survives the way through key, bytes and hexadecimal', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: CONTENT_ID_BYTES, maxLength: CONTENT_ID_BYTES }),
      fc.nat(40),
      (id, offset) => {
        const buffer = Buffer.alloc(offset + CONTENT_ID_BYTES + 7, 0xaa);
        buffer.set(id, offset);
        const key = keyAt(buffer, offset);
        assert.equal(key.length, CONTENT_ID_BYTES);
        assert.deepEqual(keyBytes(key), Buffer.from(id));
        assert.equal(keyToHex(key), Buffer.from(id).toString('hex'));
        assert.equal(keyFromHex(keyToHex(key)), key);
        assert.equal(isZeroId(buffer, offset), key === ZERO_KEY);
      },
    ),
  );
});

test('two content ids that differ in one bit have different keys', () => {
  const zero = Buffer.alloc(CONTENT_ID_BYTES);
  const keys = new Set([keyAt(zero)]);
  for (let bit = 0; bit < CONTENT_ID_BYTES * 8; bit += 1) {
    const id = Buffer.from(zero);
    id.writeUInt8(2 ** (bit % 8), Math.floor(bit / 8));
    keys.add(keyAt(id));
    assert.equal(isZeroId(id, 0), false);
  }
  assert.equal(keys.size, CONTENT_ID_BYTES * 8 + 1);
  assert.equal(isZeroId(zero, 0), true);
});

test('text that is not a content id in hexadecimal is refused', () => {
  for (const text of ['', 'ab', 'g'.repeat(64), 'A'.repeat(64), 'a'.repeat(63), 'a'.repeat(65)]) {
    assert.throws(() => keyFromHex(text), { code: 'REPOSITORY_FORMAT' });
  }
});
