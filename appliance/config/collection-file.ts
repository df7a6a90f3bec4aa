// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { canonicalJson } from '../core/canonical-json.ts';
import { ApplianceError } from '../core/errors.ts';

/** One stored document; what its value means is its collection's business. */
export interface StoredRecord {
  readonly id: string;
  readonly revision: number;
  readonly value: unknown;
}

/** What the file of a collection holds. `records` are sorted by id. */
export interface StoredCollection {
  readonly name: string;
  /** The highest that was ever given. */
  readonly revision: number;
  readonly records: readonly StoredRecord[];
}

export const COLLECTION_FORMAT = 'understudy-collection';
export const COLLECTION_VERSION = 1;

/** The one stored form of a collection: indented JSON whose last member is a SHA-256 of the canonical JSON of all others. */
export function encodeCollection(collection: StoredCollection): Buffer {
  const content = {
    format: COLLECTION_FORMAT,
    version: COLLECTION_VERSION,
    name: collection.name,
    revision: collection.revision,
    records: collection.records.map(({ id, revision, value }) => ({ id, revision, value })),
  };
  return Buffer.from(`${JSON.stringify({ ...content, sha256: digestOf(content) }, null, 2)}\n`, 'utf8');
}

/** @throws ApplianceError CONFIG_DAMAGED, CONFIG_FORMAT */
export function decodeCollection(
  bytes: Buffer,
  where: { readonly name: string; readonly path: string },
): StoredCollection {
  const file = parse(bytes, where.path);
  if (file['format'] !== COLLECTION_FORMAT) throw damaged(where.path, 'is no collection');
  if (file['version'] !== COLLECTION_VERSION) {
    throw new ApplianceError(
      'CONFIG_FORMAT',
      `${where.path} has format version ${String(file['version'])}; this program knows ${COLLECTION_VERSION}`,
    );
  }
  const { sha256, ...content } = file;
  if (sha256 !== digestOf(content)) throw damaged(where.path, 'does not match its checksum');
  const { name, revision, records } = content;
  if (name !== where.name) throw damaged(where.path, `is the collection ${String(name)}`);
  if (!isRevision(revision) || !Array.isArray(records)) throw damaged(where.path, 'is incomplete');
  const decoded = records.map((record: unknown) => decodeRecord(record, where.path));
  for (const [index, record] of decoded.entries()) {
    const before = decoded[index - 1];
    if (before !== undefined && before.id >= record.id) throw damaged(where.path, 'is not sorted');
    if (record.revision > revision) throw damaged(where.path, 'has a revision from the future');
  }
  return { name, revision, records: decoded };
}

function decodeRecord(record: unknown, path: string): StoredRecord {
  if (typeof record !== 'object' || record === null) throw damaged(path, 'has a document that is none');
  const { id, revision, value } = record as Readonly<Record<string, unknown>>;
  if (typeof id !== 'string' || !isRevision(revision) || value === undefined) {
    throw damaged(path, 'has a document that is none');
  }
  return { id, revision, value };
}

function isRevision(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function parse(bytes: Buffer, path: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw damaged(path, 'is not JSON', cause);
  }
  if (typeof value !== 'object' || value === null) throw damaged(path, 'is no collection');
  return value as Readonly<Record<string, unknown>>;
}

function digestOf(content: object): string {
  return createHash('sha256').update(canonicalJson(content)).digest('hex');
}

function damaged(path: string, what: string, cause?: unknown): ApplianceError {
  return new ApplianceError('CONFIG_DAMAGED', `${path} ${what}`, { cause, details: { path } });
}
