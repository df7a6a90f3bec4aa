// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { hasCode } from '../../appliance/core/errors.ts';
import { type PackId, parsePackId } from '../../appliance/core/ids.ts';
import { FRAME_KIND, type FrameKind } from '../../appliance/repository/format.ts';
import { FrameCodec } from '../../appliance/repository/frame-codec.ts';
import { contentId, deriveKeys, derivePackKey, type RepositoryKeys } from '../../appliance/repository/keys.ts';
import { suite } from '../support/suite.ts';

const REPOSITORY_ID = '00112233445566778899aabbccddeeff';
const PACK_ID: PackId = parsePackId('ffeeddccbbaa99887766554433221100');
const MASTER_KEY: Buffer = Buffer.alloc(32, 7);
const codec = new FrameCodec(2);

interface Frame {
  readonly id: Buffer;
  readonly stored: Buffer;
}

function keysOf(isEncrypted: boolean): RepositoryKeys {
  return deriveKeys(MASTER_KEY, REPOSITORY_ID, isEncrypted);
}

function encode(plain: Buffer, kind: FrameKind, isEncrypted: boolean, frameIndex = 0): Frame {
  const keys = keysOf(isEncrypted);
  const id = contentId(kind === FRAME_KIND.chunk ? keys.chunkId : keys.nodeId, plain);
  const into = Buffer.alloc(FrameCodec.frameBound(plain.length));
  const key = isEncrypted ? derivePackKey(keys.packRoot, PACK_ID) : undefined;
  const length = codec.encode(plain, id, { key, frameIndex, kind }, into);
  return { id, stored: into.subarray(0, length) };
}

function decode({ id, stored }: Frame, isEncrypted: boolean, verify: 'id' | 'seal' = 'id', packId = PACK_ID): Buffer {
  const keys = keysOf(isEncrypted);
  const pack = isEncrypted ? derivePackKey(keys.packRoot, packId) : undefined;
  const into = Buffer.alloc(128 * 1024);
  return into.subarray(0, codec.decode(stored, id, { ...keys, pack, verify }, into));
}

const content = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 5_000 }).map((bytes) => Buffer.from(bytes)),
  fc.tuple(fc.nat(255), fc.integer({ min: 1, max: 70_000 })).map(([byte, length]) => Buffer.alloc(length, byte)),
);
const kinds = fc.constantFrom(FRAME_KIND.chunk, FRAME_KIND.node);

function isDamage(error: unknown): boolean {
  return hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT');
}

const test = suite('frames');

test('what was encoded decodes to the same, encrypted or not, compressed or not', () => {
  fc.assert(
    fc.property(content, kinds, fc.boolean(), fc.nat(2 ** 31), (plain, kind, isEncrypted, frameIndex) => {
      const frame = encode(plain, kind, isEncrypted, frameIndex);
      assert.ok(decode(frame, isEncrypted).equals(plain));
      assert.ok(decode(frame, isEncrypted, 'seal').equals(plain));
      assert.ok(frame.stored.length <= FrameCodec.frameBound(plain.length));
    }),
    { numRuns: 300 },
  );
});

test('any changed byte of a frame is noticed, whichever way it is verified', () => {
  fc.assert(
    fc.property(
      content,
      fc.record({ isEncrypted: fc.boolean(), verify: fc.constantFrom('id' as const, 'seal' as const) }),
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      (plain, { isEncrypted, verify }, at, mask) => {
        const frame = encode(plain, FRAME_KIND.chunk, isEncrypted);
        const changed = Buffer.from(frame.stored);
        const offset = at % changed.length;
        changed.writeUInt8(changed.readUInt8(offset) ^ mask, offset);
        assert.throws(() => decode({ id: frame.id, stored: changed }, isEncrypted, verify), isDamage);
      },
    ),
    { numRuns: 2_000 },
  );
});

test('a frame that is cut, or longer than it says, is refused', () => {
  fc.assert(
    fc.property(content, fc.boolean(), fc.nat(), (plain, isEncrypted, cut) => {
      const frame = encode(plain, FRAME_KIND.chunk, isEncrypted);
      const shorter = frame.stored.subarray(0, cut % frame.stored.length);
      assert.throws(() => decode({ id: frame.id, stored: shorter }, isEncrypted), isDamage);
      const longer = Buffer.concat([frame.stored, Buffer.alloc(1)]);
      assert.throws(() => decode({ id: frame.id, stored: longer }, isEncrypted), isDamage);
    }),
    { numRuns: 200 },
  );
});

test('any bytes are decoded or refused with a code', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      assert.throws(() => decode({ id: Buffer.alloc(32), stored: Buffer.from(bytes) }, true), isDamage);
    }),
    { numRuns: 2_000 },
  );
});

test('a frame of another content is not taken for the one that was asked for', () => {
  const frame = encode(Buffer.from('one'), FRAME_KIND.chunk, true);
  const other = encode(Buffer.from('two'), FRAME_KIND.chunk, true);
  for (const verify of ['id', 'seal'] as const) {
    assert.throws(() => decode({ id: other.id, stored: frame.stored }, true, verify), isDamage);
  }
});

test('a frame moved to another pack does not verify', () => {
  const frame = encode(Buffer.from('one'), FRAME_KIND.chunk, true);
  const otherPack = parsePackId('00'.repeat(16));
  assert.throws(() => decode(frame, true, 'seal', otherPack), isDamage);
});

test('a chunk never passes for a node with the same bytes', () => {
  const plain = Buffer.alloc(2064, 3);
  const [chunk, node] = [encode(plain, FRAME_KIND.chunk, true), encode(plain, FRAME_KIND.node, true)];
  assert.ok(!chunk.id.equals(node.id));
  assert.throws(() => decode({ id: node.id, stored: chunk.stored }, true), isDamage);
});

test('an unencrypted frame in an encrypted repository verifies only by its id', () => {
  const forged = encode(Buffer.from('plain'), FRAME_KIND.chunk, false);
  const id = contentId(keysOf(true).chunkId, Buffer.from('plain'));
  assert.throws(
    () => decode({ id, stored: encode(Buffer.from('other'), FRAME_KIND.chunk, false).stored }, true, 'seal'),
    isDamage,
  );
  assert.ok(
    decode(forged, true, 'seal').equals(Buffer.from('plain')),
    'ids are keyed: only whoever has the key made it',
  );
});
