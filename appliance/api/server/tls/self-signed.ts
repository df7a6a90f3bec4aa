// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { makeDirectoryDurably, writeDurably } from '../../../core/durable-file.ts';
import { hasCode, systemErrorCode } from '../../../core/errors.ts';
import { storageError } from '../../../core/file-system.ts';
import { type CheckedPair, checkPair, type KeyPair } from './key-pair.ts';

/** Clients know it by its fingerprint: it stays for as long as an appliance does, … */
const VALID_YEARS = 10;
/** … and is made anew so long before it ends. */
const RENEW_BEFORE_MS: number = 90 * 24 * 3600 * 1000;

/** Key and certificate in one file, so that they are always of the same time. */
const FILE = 'self-signed.pem';

const KEY_BLOCK = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----\s*/;

export interface SelfSigned {
  readonly pair: CheckedPair;
  /** It was made just now. */
  readonly isNew: boolean;
}

/**
 * The appliance's own certificate, in its directory (mode 0600); made when there is none, or when it ends soon.
 * @throws ApplianceError IO_FAILED, NO_SPACE
 */
export async function selfSignedPair(directory: string, nowMs: number): Promise<SelfSigned> {
  const path = join(directory, FILE);
  const kept = usable(await readPair(path), nowMs);
  if (kept !== undefined) return { pair: kept, isNew: false };
  await makeDirectoryDurably(directory);
  const made = await makePair(nowMs);
  await writeDurably(path, Buffer.from(`${made.key.trimEnd()}\n${made.certificate.trimEnd()}\n`), { mode: 0o600 });
  return { pair: checkPair(made, nowMs), isNew: true };
}

/** A file that was cut or changed is replaced: nothing is lost but the fingerprint that clients know. */
function usable(pair: KeyPair | undefined, nowMs: number): CheckedPair | undefined {
  if (pair === undefined) return undefined;
  try {
    const checked = checkPair(pair, nowMs);
    return checked.validToMs - nowMs > RENEW_BEFORE_MS ? checked : undefined;
  } catch (error) {
    if (hasCode(error, 'CERTIFICATE_INVALID')) return undefined;
    throw error;
  }
}

async function readPair(path: string): Promise<KeyPair | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw storageError(error, 'read', path);
  }
  const [key = ''] = KEY_BLOCK.exec(text) ?? [];
  return { key, certificate: text.replace(KEY_BLOCK, '') };
}

async function makePair(nowMs: number): Promise<KeyPair> {
  const { generate } = await import('selfsigned');
  const until = new Date(nowMs);
  until.setUTCFullYear(until.getUTCFullYear() + VALID_YEARS);
  // Clocks of clients may be a little behind.
  const from = new Date(nowMs - 24 * 3600 * 1000);
  const { cert, private: key } = await generate([{ name: 'commonName', value: hostname().slice(0, 64) }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
    notBeforeDate: from,
    notAfterDate: until,
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames: alternativeNames() },
    ],
  });
  return { certificate: cert, key };
}

type AlternativeName = { readonly type: 2; readonly value: string } | { readonly type: 7; readonly ip: string };

/** What clients may call this machine. */
function alternativeNames(): AlternativeName[] {
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  const addresses = own.filter(({ scopeid = 0 }) => scopeid === 0).map(({ address }) => address);
  return [
    ...[...new Set(['localhost', hostname()])].map((value) => ({ type: 2, value }) as const),
    ...[...new Set(['127.0.0.1', '::1', ...addresses])].map((ip) => ({ type: 7, ip }) as const),
  ];
}
