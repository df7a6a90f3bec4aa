// SPDX-License-Identifier: Apache-2.0
import { createCipheriv, createDecipheriv, createHmac, type KeyObject, randomBytes, scryptSync } from 'node:crypto';
import { Ajv } from 'ajv';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { checkStoredJson, encodeJson, parseStoredJson, withMac } from './authenticated-json.ts';
import { DEFAULT_CHUNK_BYTES, FORMAT_VERSION, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES } from './format.ts';
import { deriveKeys, MASTER_KEY_BYTES } from './keys.ts';
import type { ObjectStore } from './object-store.ts';
import { parseRecoveryKey } from './recovery-key.ts';

export const CONFIG_KEY = 'config.json';
/** scrypt's cost (RFC 7914): 128 MiB and about 0.3 s for each try. The recovery key itself has 160 random bits. */
const SCRYPT = { N: 2 ** 17, r: 8, p: 1 } as const;
const SCRYPT_MAX_MEMORY: number = 256 * 1024 * 1024;

/** A way to the master key: wrapped under a recovery key, or, without encryption, as it is. */
export type KeySlot =
  | {
      readonly kind: 'scrypt';
      readonly n: number;
      readonly r: number;
      readonly p: number;
      readonly salt: string;
      readonly nonce: string;
      readonly wrapped: string;
      readonly tag: string;
    }
  | { readonly kind: 'plain'; readonly key: string };

/** `config.json` of a repository. */
export interface RepositoryConfig {
  readonly format: 'understudy-repository';
  readonly version: number;
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly chunkBytes: number;
  readonly encryption: 'aes-256-gcm' | 'none';
  readonly createdAt: string;
  /** Shows, before anything is read, that a working key is the right one: an HMAC under a key derived from it. */
  readonly keyCheck: string;
  readonly slots: readonly KeySlot[];
  /** HMAC over all the rest: nobody without the key can, for example, turn encryption off. */
  readonly mac: string;
}

const base64 = (bytes: number): object => ({ type: 'string', pattern: base64Pattern(bytes) });

/** Exactly the canonical base 64 of so many bytes. */
function base64Pattern(bytes: number): string {
  const rest = bytes % 3;
  const tail = rest === 0 ? '' : rest === 1 ? '[A-Za-z0-9+/]{2}==' : '[A-Za-z0-9+/]{3}=';
  return `^[A-Za-z0-9+/]{${Math.floor(bytes / 3) * 4}}${tail}$`;
}

const slotSchema = {
  oneOf: [
    {
      type: 'object',
      required: ['kind', 'n', 'r', 'p', 'salt', 'nonce', 'wrapped', 'tag'],
      additionalProperties: false,
      properties: {
        kind: { const: 'scrypt' },
        n: { enum: [2 ** 14, 2 ** 15, 2 ** 16, 2 ** 17] },
        r: { const: 8 },
        p: { const: 1 },
        salt: base64(32),
        nonce: base64(12),
        wrapped: base64(MASTER_KEY_BYTES),
        tag: base64(16),
      },
    },
    {
      type: 'object',
      required: ['kind', 'key'],
      additionalProperties: false,
      properties: { kind: { const: 'plain' }, key: base64(MASTER_KEY_BYTES) },
    },
  ],
} as const;

const schema = {
  type: 'object',
  required: ['format', 'version', 'id', 'chunkBytes', 'encryption', 'createdAt', 'keyCheck', 'slots', 'mac'],
  properties: {
    format: { const: 'understudy-repository' },
    version: { type: 'integer' },
    id: { type: 'string', pattern: '^[0-9a-f]{32}$' },
    chunkBytes: { type: 'integer', minimum: MIN_CHUNK_BYTES, maximum: MAX_CHUNK_BYTES },
    encryption: { enum: ['aes-256-gcm', 'none'] },
    createdAt: { type: 'string' },
    keyCheck: { type: 'string', pattern: '^[0-9a-f]{64}$' },
    slots: { type: 'array', minItems: 1, maxItems: 16, items: slotSchema },
    mac: { type: 'string', pattern: '^[0-9a-f]{64}$' },
  },
} as const;

const isConfig = new Ajv({ strict: false, validateSchema: false }).compile<RepositoryConfig>(schema);

export interface NewRepository {
  readonly config: RepositoryConfig;
  readonly masterKey: Buffer;
}

/** Makes the configuration of a new repository; with a recovery key it is encrypted. */
export function newRepositoryConfig(options: {
  readonly recoveryKey: string | undefined;
  readonly createdAt: string;
  readonly chunkBytes?: number;
}): NewRepository {
  const chunkBytes = options.chunkBytes ?? DEFAULT_CHUNK_BYTES;
  const isPowerOfTwo = Number.isInteger(Math.log2(chunkBytes));
  if (!isPowerOfTwo || chunkBytes < MIN_CHUNK_BYTES || chunkBytes > MAX_CHUNK_BYTES) {
    throw new ApplianceError('BAD_ARGUMENT', 'the chunk size must be a power of two from 64 KiB to 4 MiB');
  }
  const masterKey = randomBytes(MASTER_KEY_BYTES);
  const { recoveryKey } = options;
  const slot: KeySlot =
    recoveryKey === undefined ? { kind: 'plain', key: masterKey.toString('base64') } : wrap(masterKey, recoveryKey);
  const id = randomBytes(16).toString('hex');
  const config = sealConfig(
    {
      format: 'understudy-repository',
      version: FORMAT_VERSION,
      id,
      chunkBytes,
      encryption: recoveryKey === undefined ? 'none' : 'aes-256-gcm',
      createdAt: options.createdAt,
      keyCheck: keyCheckOf(masterKey, id),
      slots: [slot],
    },
    masterKey,
  );
  return { config, masterKey };
}

/** Authenticates a configuration under its own key. */
export function sealConfig(config: Omit<RepositoryConfig, 'mac'>, masterKey: Buffer): RepositoryConfig {
  return withMac(config, configKey(masterKey, config.id));
}

/** The master key by the recovery key (not needed without encryption). @throws ApplianceError REPOSITORY_KEY */
export function unlockWithRecoveryKey(config: RepositoryConfig, recoveryKey: string | undefined): Buffer {
  for (const slot of config.slots) {
    if (slot.kind === 'plain') return Buffer.from(slot.key, 'base64');
    if (recoveryKey === undefined) continue;
    const key = unwrap(slot, recoveryKey);
    if (key !== undefined) return key;
  }
  const message =
    recoveryKey === undefined
      ? 'the repository is encrypted and needs its recovery key'
      : 'the recovery key does not open this repository: it is the key of another one, or config.json is damaged';
  throw new ApplianceError('REPOSITORY_KEY', message);
}

/** @throws ApplianceError REPOSITORY_KEY when the key is not this repository's, REPOSITORY_CORRUPT when the configuration was changed */
export function checkMasterKey(config: RepositoryConfig, masterKey: Buffer): void {
  if (masterKey.length !== MASTER_KEY_BYTES || keyCheckOf(masterKey, config.id) !== config.keyCheck) {
    throw new ApplianceError('REPOSITORY_KEY', 'the working key does not belong to this repository');
  }
  checkStoredJson(encodeJson(config), config, configKey(masterKey, config.id), CONFIG_KEY);
}

/** Reads `config.json` anew and checks every byte of it. @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT, OBJECT_NOT_FOUND */
export async function checkStoredConfig(store: ObjectStore, key: KeyObject): Promise<void> {
  const stored = await store.get(CONFIG_KEY);
  checkStoredJson(stored, parseStoredJson(stored, CONFIG_KEY), key, CONFIG_KEY);
}

/** @throws ApplianceError OBJECT_EXISTS when there is a repository already */
export async function storeNewConfig(store: ObjectStore, config: RepositoryConfig): Promise<void> {
  await store.put(CONFIG_KEY, encodeJson(config));
}

/** @throws ApplianceError REPOSITORY_NOT_FOUND, REPOSITORY_FORMAT */
export async function loadConfig(store: ObjectStore, location: string): Promise<RepositoryConfig> {
  let bytes: Buffer;
  try {
    bytes = await store.get(CONFIG_KEY);
  } catch (cause) {
    if (!hasCode(cause, 'OBJECT_NOT_FOUND')) throw cause;
    throw new ApplianceError('REPOSITORY_NOT_FOUND', `there is no repository in ${location}`, { cause });
  }
  const value = parseJson(bytes);
  if (!isConfig(value)) throw new ApplianceError('REPOSITORY_FORMAT', `config.json in ${location} is damaged`);
  if (value.version !== FORMAT_VERSION) {
    throw new ApplianceError(
      'REPOSITORY_FORMAT',
      `the repository has format version ${value.version}; this program knows ${FORMAT_VERSION}`,
    );
  }
  return value;
}

function configKey(masterKey: Buffer, repositoryId: string): KeyObject {
  return deriveKeys(masterKey, repositoryId, true).manifest;
}

function keyCheckOf(masterKey: Buffer, repositoryId: string): string {
  return createHmac('sha256', configKey(masterKey, repositoryId)).update('understudy key check').digest('hex');
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw new ApplianceError('REPOSITORY_FORMAT', 'config.json is not JSON', { cause });
  }
}

function wrap(masterKey: Buffer, recoveryKey: string): KeySlot {
  const salt = randomBytes(32);
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', stretch(recoveryKey, salt, SCRYPT), nonce);
  const wrapped = Buffer.concat([cipher.update(masterKey), cipher.final()]);
  return {
    kind: 'scrypt',
    n: SCRYPT.N,
    r: SCRYPT.r,
    p: SCRYPT.p,
    salt: salt.toString('base64'),
    nonce: nonce.toString('base64'),
    wrapped: wrapped.toString('base64'),
    tag: cipher.getAuthTag().toString('base64'),
  };
}

function unwrap(slot: KeySlot & { readonly kind: 'scrypt' }, recoveryKey: string): Buffer | undefined {
  const key = stretch(recoveryKey, Buffer.from(slot.salt, 'base64'), { N: slot.n, r: slot.r, p: slot.p });
  const decipher = createDecipheriv('aes-256-gcm', key, Buffer.from(slot.nonce, 'base64'), { authTagLength: 16 });
  decipher.setAuthTag(Buffer.from(slot.tag, 'base64'));
  const plain = decipher.update(Buffer.from(slot.wrapped, 'base64'));
  try {
    decipher.final();
  } catch (error) {
    // A wrong key and a damaged slot look the same here; the caller tries the other slots and then says so.
    if (error instanceof Error) return undefined;
    throw error;
  }
  return plain;
}

function stretch(
  recoveryKey: string,
  salt: Buffer,
  cost: { readonly N: number; readonly r: number; readonly p: number },
): Buffer {
  return scryptSync(parseRecoveryKey(recoveryKey), salt, 32, { ...cost, maxmem: SCRYPT_MAX_MEMORY });
}
