// SPDX-License-Identifier: Apache-2.0
import { hkdfSync, randomBytes } from 'node:crypto';
import { gunzipSync, gzipSync } from 'node:zlib';
import { AEAD_KEY_BYTES, AEAD_NONCE_BYTES, AEAD_TAG_BYTES, nodeAead } from '../core/aead.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { checkStoredJson, corruptObject, encodeJson, parseStoredJson, withMac } from './authenticated-json.ts';
import type { RepositoryKeys } from './keys.ts';
import type { ObjectStore } from './object-store.ts';

/** Where states of appliances lie. */
export const APPLIANCE_FOLDER = 'appliance/';
/** Most bytes of a state as JSON. */
export const MAX_STATE_BYTES: number = 64 * 1024 * 1024;

const FORMAT = 'understudy-appliance';
const VERSION = 1;
const SALT_BYTES = 16;
const NAME = /^appliance\/(\d{10})-[0-9a-f]{8}\.json$/;
const DIGITS = 10;

/** What is readable of a stored state without opening it. */
export interface StoredState {
  readonly format: typeof FORMAT;
  readonly version: typeof VERSION;
  /** Grows by one with each state; the highest is the newest, whatever clocks say. */
  readonly sequence: number;
  /** ISO 8601 in UTC. */
  readonly createdAt: string;
  /** The end of the audit log then; null for none. Its own members are not looked at here. */
  readonly anchor: unknown;
  /** Base 64 of salt (16 bytes), tag (16) and ciphertext. */
  readonly sealed: string;
  readonly mac: string;
}

/** A state that was opened. */
export interface OpenedState {
  readonly key: string;
  readonly sequence: number;
  readonly createdAt: string;
  readonly anchor: unknown;
  readonly content: unknown;
}

export interface StateList {
  /** Newest first. */
  readonly states: readonly { readonly key: string; readonly stored: StoredState }[];
  readonly damaged: readonly { readonly key: string; readonly error: ApplianceError }[];
}

/**
 * States of the appliance in the repository, objects `appliance/NNNNNNNNNN-XXXXXXXX.json`: JSON under the repository's
 * authentication key, whose content is packed with gzip and sealed with AES-256-GCM under a key for each object. Garbage collection
 * does not touch them. Format: `docs/formats/self-backup.md`.
 */
export class ApplianceStates {
  readonly #store: ObjectStore;
  readonly #keys: RepositoryKeys;

  constructor(store: ObjectStore, keys: RepositoryKeys) {
    this.#store = store;
    this.#keys = keys;
  }

  /** Durable when settled. @throws ApplianceError LIMIT_REACHED, NO_SPACE, IO_FAILED */
  async put(state: {
    readonly createdAt: string;
    readonly anchor: unknown;
    readonly content: unknown;
  }): Promise<string> {
    const plain = Buffer.from(JSON.stringify(state.content), 'utf8');
    if (plain.length > MAX_STATE_BYTES) {
      throw new ApplianceError('LIMIT_REACHED', `the state of the appliance has ${plain.length} bytes`);
    }
    const sequence = 1 + Math.max(0, ...(await this.#keysOfStates()).map(sequenceOf));
    const key = `${APPLIANCE_FOLDER}${String(sequence).padStart(DIGITS, '0')}-${randomBytes(4).toString('hex')}.json`;
    const sealed = this.#seal(gzipSync(plain), key).toString('base64');
    const { createdAt, anchor } = state;
    const stored = { format: FORMAT, version: VERSION, sequence, createdAt, anchor, sealed };
    await this.#store.put(key, encodeJson(withMac(stored, this.#keys.manifest)));
    return key;
  }

  /** All of them, checked as far as the key of the repository goes. @throws ApplianceError IO_FAILED */
  async list(): Promise<StateList> {
    const states: { readonly key: string; readonly stored: StoredState }[] = [];
    const damaged: { readonly key: string; readonly error: ApplianceError }[] = [];
    for (const key of await this.#keysOfStates()) {
      try {
        states.push({ key, stored: await this.#load(key) });
      } catch (error) {
        if (!hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT', 'OBJECT_NOT_FOUND')) throw error;
        damaged.push({ key, error });
      }
    }
    return { states: states.reverse(), damaged };
  }

  /** @throws ApplianceError REPOSITORY_CORRUPT */
  open({ key, stored }: StateList['states'][number]): OpenedState {
    const { sequence, createdAt, anchor } = stored;
    const packed = this.#unseal(Buffer.from(stored.sealed, 'base64'), key);
    try {
      const plain = gunzipSync(packed, { maxOutputLength: MAX_STATE_BYTES });
      return { key, sequence, createdAt, anchor, content: JSON.parse(plain.toString('utf8')) };
    } catch (cause) {
      throw corruptObject(key, 'cannot be unpacked', cause);
    }
  }

  /** Removes all but the newest `keep` that are whole, and what is damaged once there are as many. */
  async prune(keep: number): Promise<void> {
    const { states, damaged } = await this.list();
    const old = states.slice(keep).map(({ key }) => key);
    const broken = states.length >= keep ? damaged.map(({ key }) => key) : [];
    for (const key of [...old, ...broken]) await this.#store.delete(key);
  }

  /** What is wrong with states that are there, read whole. @throws ApplianceError IO_FAILED */
  async check(): Promise<readonly { readonly key: string; readonly error: ApplianceError }[]> {
    const { states, damaged } = await this.list();
    const broken = [...damaged];
    for (const state of states) {
      try {
        this.open(state);
      } catch (error) {
        if (!hasCode(error, 'REPOSITORY_CORRUPT')) throw error;
        broken.push({ key: state.key, error });
      }
    }
    return broken;
  }

  async #keysOfStates(): Promise<readonly string[]> {
    const entries = await this.#store.list(APPLIANCE_FOLDER);
    return entries.map(({ key }) => key).filter((key) => NAME.test(key));
  }

  async #load(key: string): Promise<StoredState> {
    const bytes = await this.#store.get(key);
    const value = parseStoredJson(bytes, key) as StoredState;
    if (value.format !== FORMAT) throw corruptObject(key, 'is no state of an appliance');
    if (value.version !== VERSION) {
      throw new ApplianceError('REPOSITORY_FORMAT', `${key} has format version ${String(value.version)}`);
    }
    checkStoredJson(bytes, value, this.#keys.manifest, key);
    if (value.sequence !== sequenceOf(key)) throw corruptObject(key, 'is another state');
    return value;
  }

  #seal(plain: Buffer, key: string): Buffer {
    const salt = randomBytes(SALT_BYTES);
    const tag = Buffer.alloc(AEAD_TAG_BYTES);
    const stored = Buffer.alloc(plain.length);
    nodeAead.seal(this.#parameters(salt, tag, key), plain, stored);
    return Buffer.concat([salt, tag, stored]);
  }

  #unseal(sealed: Buffer, key: string): Buffer {
    const stored = sealed.subarray(SALT_BYTES + AEAD_TAG_BYTES);
    if (sealed.length < SALT_BYTES + AEAD_TAG_BYTES) throw corruptObject(key, 'is too short');
    const salt = sealed.subarray(0, SALT_BYTES);
    const tag = sealed.subarray(SALT_BYTES, SALT_BYTES + AEAD_TAG_BYTES);
    const plain = Buffer.alloc(stored.length);
    if (!nodeAead.open(this.#parameters(salt, tag, key), stored, plain)) throw corruptObject(key, 'does not open');
    return plain;
  }

  #parameters(salt: Buffer, tag: Buffer, key: string): Parameters<typeof nodeAead.seal>[0] {
    return {
      key: Buffer.from(hkdfSync('sha256', this.#keys.applianceRoot, salt, 'understudy v1 state', AEAD_KEY_BYTES)),
      // Each object has a key of its own.
      nonce: Buffer.alloc(AEAD_NONCE_BYTES),
      additionalData: Buffer.from(key, 'utf8'),
      tag,
    };
  }
}

function sequenceOf(key: string): number {
  return Number(NAME.exec(key)?.[1] ?? 0);
}
