// SPDX-License-Identifier: Apache-2.0
import { argon2, randomBytes, timingSafeEqual } from 'node:crypto';
import { ApplianceError } from '../core/errors.ts';

/**
 * Passwords at rest: argon2id (RFC 9106) in the PHC string format, `$argon2id$v=19$m=65536,t=3,p=4$SALT$HASH`. The parameters
 * travel with each hash, so that they can be raised later: an old hash still verifies, and `isStale` says that it
 * should be made anew.
 */
export interface HashCost {
  /** In KiB. */
  readonly memoryKib: number;
  readonly passes: number;
  readonly parallelism: number;
}

/** The second recommendation of RFC 9106, section 4: for where 2 GiB per login are too much. */
export const DEFAULT_HASH_COST: HashCost = { memoryKib: 65_536, passes: 3, parallelism: 4 };

const SALT_BYTES = 16;
const TAG_BYTES = 32;

/** What a stored hash may ask of this process at most, whoever wrote it. */
const MAX_MEMORY_KIB = 1_048_576;
const MAX_PASSES = 64;
const MAX_PARALLELISM = 64;

const PHC =
  /^\$argon2id\$v=19\$m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,10})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})$/;

interface ParsedHash {
  readonly cost: HashCost;
  readonly salt: Buffer;
  readonly tag: Buffer;
}

export async function hashPassword(password: string, cost: HashCost): Promise<string> {
  const salt = randomBytes(SALT_BYTES);
  const tag = await derive(password, salt, cost, TAG_BYTES);
  const { memoryKib, passes, parallelism } = cost;
  return `$argon2id$v=19$m=${memoryKib},t=${passes},p=${parallelism}$${unpadded(salt)}$${unpadded(tag)}`;
}

/** Whether the password is the one that was hashed. @throws BAD_ARGUMENT for what is no hash of ours */
export async function verifyPassword(password: string, hash: string): Promise<boolean> {
  const { cost, salt, tag } = parseHash(hash);
  return timingSafeEqual(await derive(password, salt, cost, tag.length), tag);
}

/** Whether a hash was made with other parameters than are wanted now. @throws BAD_ARGUMENT */
export function isStale(hash: string, wanted: HashCost): boolean {
  const { cost, tag } = parseHash(hash);
  return (
    cost.memoryKib !== wanted.memoryKib ||
    cost.passes !== wanted.passes ||
    cost.parallelism !== wanted.parallelism ||
    tag.length !== TAG_BYTES
  );
}

/** A hash that no password has, and that takes as long to compare: for users who do not exist. */
export function hashOfNobody(cost: HashCost): string {
  const { memoryKib, passes, parallelism } = cost;
  const [salt, tag] = [randomBytes(SALT_BYTES), randomBytes(TAG_BYTES)];
  return `$argon2id$v=19$m=${memoryKib},t=${passes},p=${parallelism}$${unpadded(salt)}$${unpadded(tag)}`;
}

function parseHash(hash: string): ParsedHash {
  const found = PHC.exec(hash);
  const [memoryKib = 0, passes = 0, parallelism = 0] = (found ?? []).slice(1, 4).map(Number);
  const isInLimits =
    parallelism >= 1 &&
    parallelism <= MAX_PARALLELISM &&
    passes >= 1 &&
    passes <= MAX_PASSES &&
    memoryKib >= 8 * parallelism &&
    memoryKib <= MAX_MEMORY_KIB;
  if (found === null || !isInLimits) throw new ApplianceError('BAD_ARGUMENT', 'a stored password hash cannot be read');
  return {
    cost: { memoryKib, passes, parallelism },
    salt: Buffer.from(found[4] ?? '', 'base64'),
    tag: Buffer.from(found[5] ?? '', 'base64'),
  };
}

/** On a thread of the pool of Node, not on the main one. */
function derive(password: string, salt: Buffer, cost: HashCost, tagLength: number): Promise<Buffer> {
  const { memoryKib: memory, passes, parallelism } = cost;
  const message = Buffer.from(password.normalize('NFKC'), 'utf8');
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  argon2('argon2id', { message, nonce: salt, parallelism, tagLength, memory, passes }, (error, tag) => {
    message.fill(0);
    if (error === null) resolve(tag);
    else reject(new ApplianceError('INTERNAL', 'a password could not be hashed', { cause: error }));
  });
  return promise;
}

function unpadded(bytes: Buffer): string {
  return bytes.toString('base64').replaceAll('=', '');
}
