// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type Aead, nodeAead, type SealParameters } from '../../appliance/core/aead.ts';
import { fastestAead } from '../../appliance/core/fastest-aead.ts';
import { loadOpenssl } from '../../appliance/core/openssl.ts';
import { suite } from '../support/suite.ts';

const direct = loadOpenssl();

/** McGrew, Viega: The Galois/Counter Mode of Operation (GCM), appendix B, test cases 13 to 16. */
const K15 = 'feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308';
const P15 =
  'd9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255';
const C15 =
  '522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad';
const VECTORS = [
  {
    key: '00'.repeat(32),
    nonce: '00'.repeat(12),
    plain: '',
    aad: '',
    sealed: '',
    tag: '530f8afbc74536b9a963b4f1c4cb738b',
  },
  {
    key: '00'.repeat(32),
    nonce: '00'.repeat(12),
    plain: '00'.repeat(16),
    aad: '',
    sealed: 'cea7403d4d606b6e074ec5d3baf39d18',
    tag: 'd0d1c8a799996bf0265b98b5d48ab919',
  },
  {
    key: K15,
    nonce: 'cafebabefacedbaddecaf888',
    plain: P15,
    aad: '',
    sealed: C15,
    tag: 'b094dac5d93471bdec1a502270e3cc6c',
  },
  {
    key: K15,
    nonce: 'cafebabefacedbaddecaf888',
    plain: P15.slice(0, 120),
    aad: 'feedfacedeadbeeffeedfacedeadbeefabaddad2',
    sealed: C15.slice(0, 120),
    tag: '76fc6ece0f4e1768cddf8853bb2d551b',
  },
] as const;

const bytes = (length: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ minLength: length, maxLength: length }).map((array) => Buffer.from(array));
const case_ = fc.record({
  key: bytes(32),
  nonce: bytes(12),
  additionalData: fc.uint8Array({ maxLength: 80 }).map((array) => Buffer.from(array)),
  plain: fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array)),
});

function sealed(aead: Aead, parameters: Omit<SealParameters, 'tag'>, plain: Buffer): { into: Buffer; tag: Buffer } {
  const tag = Buffer.alloc(16);
  const into = Buffer.from(new SharedArrayBuffer(plain.length));
  aead.seal({ ...parameters, tag }, plain, into);
  return { into, tag };
}

const test = suite('AES-256-GCM');

test('this Node offers its OpenSSL, so the fastest implementation is the direct one', () => {
  assert.ok(direct !== undefined);
  assert.notEqual(fastestAead(), nodeAead);
});

for (const [name, aead] of [
  ['node:crypto', nodeAead],
  ['OpenSSL', direct],
] as const) {
  if (aead === undefined) continue;

  test(`${name}: the published vectors`, () => {
    for (const vector of VECTORS) {
      const hex = (text: string): Buffer => Buffer.from(text, 'hex');
      const parameters = { key: hex(vector.key), nonce: hex(vector.nonce), additionalData: hex(vector.aad) };
      const { into, tag } = sealed(aead, parameters, hex(vector.plain));
      assert.equal(into.toString('hex'), vector.sealed);
      assert.equal(tag.toString('hex'), vector.tag);
      const opened = Buffer.alloc(into.length);
      assert.ok(aead.open({ ...parameters, tag }, into, opened));
      assert.equal(opened.toString('hex'), vector.plain);
    }
  });

  test(`${name}: any flipped bit of content, tag, nonce or additional data is noticed, and what is right opens after it`, () => {
    fc.assert(
      fc.property(case_, fc.nat(), fc.integer({ min: 0, max: 7 }), ({ plain, ...parameters }, where, bit) => {
        const { into, tag } = sealed(aead, parameters, plain);
        const given = [into, tag, parameters.nonce, parameters.additionalData].map((part) => Buffer.from(part));
        const all = Buffer.concat(given);
        const at = where % all.length;
        all.writeUInt8(all.readUInt8(at) ^ (1 << bit), at);
        const parts = given.map((part, n) => {
          const start = given.slice(0, n).reduce((sum, { length }) => sum + length, 0);
          return all.subarray(start, start + part.length);
        });
        const [stored, tag_, nonce, additionalData] = parts as [Buffer, Buffer, Buffer, Buffer];
        const opened = Buffer.alloc(plain.length);
        assert.equal(aead.open({ key: parameters.key, nonce, additionalData, tag: tag_ }, stored, opened), false);
        assert.equal(aead.open({ ...parameters, tag }, into, opened), true);
        assert.ok(opened.equals(plain));
      }),
      { numRuns: 300 },
    );
  });
}

test('both implementations agree, byte for byte', () => {
  assert.ok(direct !== undefined);
  fc.assert(
    fc.property(case_, ({ plain, ...parameters }) => {
      assert.deepEqual(sealed(direct, parameters, plain), sealed(nodeAead, parameters, plain));
    }),
    { numRuns: 300 },
  );
});

test('a chunk in shared memory is sealed and opened in place of another', () => {
  assert.ok(direct !== undefined);
  const arena = Buffer.from(new SharedArrayBuffer(1024 * 1024));
  const plain = arena.subarray(100, 100 + 65_536).fill(0x5a);
  const into = arena.subarray(200_000, 200_000 + 65_536);
  const parameters = { key: Buffer.alloc(32, 1), nonce: Buffer.alloc(12, 2), additionalData: Buffer.alloc(56, 3) };
  const tag = arena.subarray(300_000, 300_016);
  direct.seal({ ...parameters, tag }, plain, into);
  assert.equal(arena[199_999], 0);
  assert.equal(arena[200_000 + 65_536], 0);
  const opened = arena.subarray(400_000, 400_000 + 65_536);
  assert.ok(nodeAead.open({ ...parameters, tag }, into, opened));
  assert.ok(opened.equals(plain));
});

test('memory of the wrong length is refused before any byte is written', () => {
  for (const aead of [nodeAead, direct]) {
    assert.ok(aead !== undefined);
    const right = {
      key: Buffer.alloc(32),
      nonce: Buffer.alloc(12),
      additionalData: Buffer.alloc(0),
      tag: Buffer.alloc(16),
    };
    const plain = Buffer.alloc(32, 7);
    const wrong: readonly Partial<SealParameters>[] = [
      { key: Buffer.alloc(16) },
      { nonce: Buffer.alloc(16) },
      { tag: Buffer.alloc(12) },
    ];
    for (const change of wrong) {
      assert.throws(() => aead.seal({ ...right, ...change }, plain, Buffer.alloc(32)));
      assert.throws(() => aead.open({ ...right, ...change }, plain, Buffer.alloc(32)));
    }
    assert.throws(() => aead.seal(right, plain, Buffer.alloc(31)));
    assert.throws(() => aead.open(right, plain, Buffer.alloc(31)));
  }
});
