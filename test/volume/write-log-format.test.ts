// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { hasCode } from '../../appliance/core/errors.ts';
import { segmentCipher } from '../../appliance/volume/write-log-cipher.ts';
import {
  decodeRecordHeader,
  decodeSegmentHeader,
  encodeRecordFacts,
  encodeSegmentHeader,
  isPlausible,
  RECORD_HEADER_BYTES,
  type RecordFacts,
  recordSpan,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  sealRecordHeader,
} from '../../appliance/volume/write-log-format.ts';
import { suite } from '../support/suite.ts';

const test = suite('write log format');

const PAGE = new URL('../../docs/formats/write-log.md', import.meta.url);

const HEADER: SegmentHeader = {
  version: 1,
  isEncrypted: false,
  logId: Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex'),
  machineId: Buffer.from('0190a4c27d3e4f108a551c2d3e4f5a6b', 'hex'),
  salt: Buffer.from('a0a1a2a3a4a5a6a7a8a9aaabacadaeaf', 'hex'),
  number: 1,
  baseSequence: 1,
  createdUs: 1_800_000_000_000_000,
  keyCheck: Buffer.alloc(8),
};

const KEY = Buffer.alloc(32, 0x42);

const WRITE: RecordFacts = {
  kind: 'write',
  disk: 0,
  sequence: 1,
  timeUs: 1_800_000_000_000_000,
  offset: 4096,
  length: 12,
  durableSequence: 0,
  continues: false,
};

const ZERO: RecordFacts = {
  kind: 'zero',
  disk: 1,
  sequence: 2,
  timeUs: 1_800_000_000_000_001,
  offset: 2 ** 40,
  length: 65_536,
  durableSequence: 1,
  continues: false,
};

for (const isEncrypted of [false, true]) {
  const title = isEncrypted ? 'Example, encrypted' : 'Example, plain';

  test(`the page's example decodes to what it says, and encodes to the same bytes: ${title}`, async () => {
    const bytes = exampleOf(await readFile(PAGE, 'utf8'), title);
    const key = isEncrypted ? KEY : null;
    const cipher = segmentCipher(key, { ...HEADER, isEncrypted });
    const header = { ...HEADER, isEncrypted, keyCheck: cipher.keyCheck };
    assert.deepEqual(decodeSegmentHeader(bytes), header);
    const expected: Buffer[] = [encodeSegmentHeader(header)];
    let at = SEGMENT_HEADER_BYTES;
    for (const [facts, payload] of [
      [WRITE, Buffer.from('Hello, disk!')],
      [ZERO, Buffer.alloc(0)],
    ] as const) {
      const record = decodeRecordHeader(bytes, at, cipher.saltCrc);
      assert.ok(record !== undefined && isPlausible(record, isEncrypted));
      const { payloadBytes, payloadCrc, ...rest } = record;
      assert.deepEqual(rest, facts);
      const start = at + RECORD_HEADER_BYTES;
      const stored = bytes.subarray(start, start + payloadBytes);
      assert.equal(payloadCrc, crc32(stored));
      assert.deepEqual(cipher.open(record, bytes.subarray(at, start), stored), payload);
      const encoded = Buffer.alloc(recordSpan(payloadBytes));
      assert.equal(cipher.seal(facts, payload, encoded), RECORD_HEADER_BYTES + payloadBytes);
      expected.push(encoded);
      at += recordSpan(payloadBytes);
    }
    assert.equal(bytes.toString('hex'), Buffer.concat(expected).toString('hex'));
  });
}

test('every record header decodes to what was encoded', () => {
  const number = fc.nat({ max: Number.MAX_SAFE_INTEGER });
  fc.assert(
    fc.property(
      fc.record({
        kind: fc.constantFrom('write', 'zero', 'trim', 'mark', 'barrier', 'event'),
        disk: fc.nat(0xffff),
        sequence: number,
        timeUs: number,
        offset: fc.nat({ max: 2 ** 52 }),
        length: fc.nat({ max: 2 ** 52 - 1 }),
        durableSequence: number,
        continues: fc.boolean(),
      }) as fc.Arbitrary<RecordFacts>,
      fc.nat(0xffff_ffff),
      fc.nat(0xffff_ffff),
      (facts, payloadBytes, salt) => {
        const bytes = Buffer.alloc(RECORD_HEADER_BYTES + 3, 0xff);
        encodeRecordFacts(facts, payloadBytes, bytes.subarray(3));
        sealRecordHeader(bytes.subarray(3), 0xdead_beef, salt);
        assert.deepEqual(decodeRecordHeader(bytes, 3, salt), { ...facts, payloadBytes, payloadCrc: 0xdead_beef });
        assert.equal(decodeRecordHeader(bytes, 3, (salt ^ 1) >>> 0), undefined);
        const at = 3 + (payloadBytes % RECORD_HEADER_BYTES);
        bytes[at] = (bytes[at] ?? 0) ^ 1;
        assert.equal(decodeRecordHeader(bytes, 3, salt), undefined);
      },
    ),
  );
});

test('an intact segment header of another version or with unknown flags is refused, a damaged one is not decoded', () => {
  const bytes = encodeSegmentHeader(HEADER);
  assert.deepEqual(decodeSegmentHeader(bytes), HEADER);
  for (const [at, value] of [
    [9, 3],
    [11, 2],
    [13, 1],
    [100, 1],
  ] as const) {
    const other = Buffer.from(bytes);
    other[at] = value;
    other.writeUInt32BE(crc32(other.subarray(0, 124)), 124);
    assert.throws(
      () => decodeSegmentHeader(other),
      (error) => hasCode(error, 'REPOSITORY_FORMAT'),
    );
  }
  for (let at = 0; at < bytes.length; at++) {
    const damaged = Buffer.from(bytes);
    damaged[at] = (damaged[at] ?? 0) ^ 0x80;
    assert.equal(decodeSegmentHeader(damaged), undefined);
  }
  assert.equal(decodeSegmentHeader(bytes.subarray(0, 127)), undefined);
});

test('a sealed payload opens only with its own header, key and segment', () => {
  const cipher = segmentCipher(KEY, { ...HEADER, isEncrypted: true });
  const record = Buffer.alloc(200);
  const end = cipher.seal(WRITE, Buffer.from('Hello, disk!'), record);
  const headerBytes = record.subarray(0, RECORD_HEADER_BYTES);
  const stored = record.subarray(RECORD_HEADER_BYTES, end);
  const header = decodeRecordHeader(headerBytes, 0, cipher.saltCrc);
  assert.ok(header !== undefined);
  assert.deepEqual(cipher.open(header, headerBytes, stored), Buffer.from('Hello, disk!'));
  const moved = Buffer.from(headerBytes);
  moved.writeUInt32BE(8192, 28);
  assert.equal(cipher.open(header, moved, stored), undefined);
  for (const other of [
    segmentCipher(Buffer.alloc(32, 1), { ...HEADER, isEncrypted: true }),
    segmentCipher(KEY, { ...HEADER, isEncrypted: true, number: 2 }),
    segmentCipher(KEY, { ...HEADER, isEncrypted: true, salt: Buffer.alloc(16) }),
  ]) {
    assert.equal(other.open(header, headerBytes, stored), undefined);
  }
});

/** The bytes of the hex dump under a heading: lines of an offset, bytes, and an explanation after two spaces. */
function exampleOf(page: string, heading: string): Buffer {
  const section = page.split(`### ${heading}\n`)[1];
  const block = section?.split('```')[1];
  assert.ok(block !== undefined, heading);
  const lines = block.split('\n').slice(1, -1);
  const hex = lines.map((line) => /^[0-9a-f]{4} {2}((?:[0-9a-f]{2} ?)+)/.exec(line)?.[1] ?? assert.fail(line));
  return Buffer.from(hex.join('').replaceAll(' ', ''), 'hex');
}
