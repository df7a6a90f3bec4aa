// SPDX-License-Identifier: Apache-2.0
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { invariant } from './invariant.ts';

/** AES-256-GCM, NIST SP 800-38D. */
export const AEAD_KEY_BYTES = 32;
export const AEAD_NONCE_BYTES = 12;
export const AEAD_TAG_BYTES = 16;

/** What goes into one sealing besides the content. A nonce must never be used twice with one key to seal. */
export interface SealParameters {
  /** 32 bytes. */
  readonly key: Buffer;
  /** 12 bytes. */
  readonly nonce: Buffer;
  /** Covered by the tag, not encrypted. */
  readonly additionalData: Buffer;
  /** 16 bytes: written by `seal`, read by `open`. */
  readonly tag: Buffer;
}

/**
 * AES-256-GCM (NIST SP 800-38D) from one piece of the caller's memory into another of the same length. The two may lie in
 * shared memory; they must not overlap. Synchronous; one per thread is enough.
 */
export interface Aead {
  seal(parameters: SealParameters, plain: Buffer, into: Buffer): void;
  /** False when the tag is wrong: `into` then holds nothing that may be used. */
  open(parameters: SealParameters, stored: Buffer, into: Buffer): boolean;
}

/** For every implementation: C would read and write beyond what is too short. */
export function checkSizes({ key, nonce, tag }: SealParameters, from: Buffer, into: Buffer): void {
  invariant(key.length === AEAD_KEY_BYTES, 'a key has 32 bytes');
  invariant(nonce.length === AEAD_NONCE_BYTES, 'a nonce has 12 bytes');
  invariant(tag.length === AEAD_TAG_BYTES, 'a tag has 16 bytes');
  invariant(into.length === from.length, 'what is sealed is as long as what is plain');
}

/** Through node:crypto, which makes a new buffer for each result. Works everywhere. */
class NodeAead implements Aead {
  seal(parameters: SealParameters, plain: Buffer, into: Buffer): void {
    checkSizes(parameters, plain, into);
    const { key, nonce, additionalData, tag } = parameters;
    const cipher = createCipheriv('aes-256-gcm', key, nonce);
    cipher.setAAD(additionalData);
    cipher.update(plain).copy(into);
    cipher.final();
    cipher.getAuthTag().copy(tag);
  }

  open(parameters: SealParameters, stored: Buffer, into: Buffer): boolean {
    checkSizes(parameters, stored, into);
    const { key, nonce, additionalData, tag } = parameters;
    const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: AEAD_TAG_BYTES });
    decipher.setAAD(additionalData);
    decipher.setAuthTag(tag);
    decipher.update(stored).copy(into);
    try {
      decipher.final();
      return true;
    } catch {
      return false;
    }
  }
}

export const nodeAead: Aead = new NodeAead();
