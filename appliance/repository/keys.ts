// SPDX-License-Identifier: Apache-2.0
import { createHmac, createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { AEAD_KEY_BYTES } from '../core/aead.ts';
import type { PackId } from '../core/ids.ts';

export const MASTER_KEY_BYTES = 32;

/**
 * All keys of one repository, derived from its master key by HKDF-SHA-256 (RFC 5869) with the repository id as salt and
 * a purpose as info: each purpose has a key of its own, so a chunk can never pass for a node, nor a manifest for either.
 */
export interface RepositoryKeys {
  readonly chunkId: KeyObject;
  readonly nodeId: KeyObject;
  readonly manifest: KeyObject;
  readonly packRoot: Buffer;
  /** Root of the write logs' segment keys. */
  readonly logRoot: Buffer;
  /** Root of the keys of the appliance's own states. */
  readonly applianceRoot: Buffer;
  readonly isEncrypted: boolean;
}

export function deriveKeys(masterKey: Buffer, repositoryId: string, isEncrypted: boolean): RepositoryKeys {
  const derive = (purpose: string): Buffer =>
    Buffer.from(hkdfSync('sha256', masterKey, repositoryId, `understudy v1 ${purpose}`, MASTER_KEY_BYTES));
  return {
    chunkId: createSecretKey(derive('chunk id')),
    nodeId: createSecretKey(derive('node id')),
    manifest: createSecretKey(derive('manifest')),
    packRoot: derive('pack'),
    logRoot: derive('write log'),
    applianceRoot: derive('appliance'),
    isEncrypted,
  };
}

/**
 * The AEAD key of one pack. A pack id is 128 random bits and never used again, also not after a failed run, so a key
 * encrypts the frames of one pack only, and the frame's number in it is a nonce that cannot repeat.
 */
export function derivePackKey(packRoot: Buffer, packId: PackId): Buffer {
  return Buffer.from(hkdfSync('sha256', packRoot, Buffer.from(packId, 'hex'), 'understudy v1 frames', AEAD_KEY_BYTES));
}

/** Content id: HMAC-SHA-256 of the plain content under the key of its kind. */
export function contentId(key: KeyObject, plain: Uint8Array): Buffer {
  return createHmac('sha256', key).update(plain).digest();
}
