// SPDX-License-Identifier: Apache-2.0
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { AuditAnchor } from '../audit/anchor.ts';
import { AUDIT_DIRECTORY } from '../audit/audit-log.ts';
import { AUDIT_FORMAT, AUDIT_VERSION, encodeHeader } from '../audit/segment.ts';
import { SegmentFiles } from '../audit/segment-files.ts';
import type { Catalog } from '../catalog/catalog.ts';
import { decodeCollection } from '../config/collection-file.ts';
import { CONFIG_DIRECTORY } from '../config/configuration.ts';
import { makeDirectoryDurably, syncDirectory, writeDurably } from '../core/durable-file.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import { realFileSystem, storageError } from '../core/file-system.ts';
import { readSmallFile } from '../core/small-file.ts';

/** What of an appliance no repository has by itself; `docs/formats/self-backup.md`. */
export interface ApplianceStateContent {
  readonly version: 1;
  /** The file `appliance.key`; null in a repository without encryption, which everybody can read. */
  readonly applianceKey: string | null;
  /** The files of the configuration by the name of their collection. */
  readonly collections: Readonly<Record<string, string>>;
  /** Records of the catalog: machines under continuous protection, spares, failovers that are not over. */
  readonly records: Readonly<Record<string, unknown>>;
  /** The newest runs. */
  readonly runs: Readonly<Record<string, unknown>>;
  /** The number of the audit log's last segment. */
  readonly auditSegment: number;
}

/** What the catalog alone knows. */
export type CatalogRecords = Pick<ApplianceStateContent, 'records' | 'runs'>;

export interface RestoredState {
  /** When the state was kept; ISO 8601. */
  readonly createdAt: string;
  /** Documents by collection. */
  readonly documents: Readonly<Record<string, number>>;
  /** Machines under protection, and spares. */
  readonly records: number;
  /** False in a repository without encryption: passwords have to be entered again. */
  readonly hasSecrets: boolean;
}

/** Who is logged in, and links to set a password with, do not outlive an appliance. */
const LEFT_OUT: ReadonlySet<string> = new Set(['sessions', 'invitations']);
const COLLECTION_FILE = /^([a-z][a-z-]{0,40})\.json$/;
const RECORDS_OF_DECISIONS = /^(protection|standby)-/;
const MAX_RUNS = 500;
const RECORDS_FILE = 'restored-records.json';
const KEY_FILE = 'appliance.key';

/** True for a collection that is no part of a kept state. */
export function isLeftOut(collection: string): boolean {
  return LEFT_OUT.has(collection);
}

/** The files of the configuration, and the key of its secrets. @throws ApplianceError IO_FAILED */
export async function readConfigurationFiles(
  stateDirectory: string,
  isEncrypted: boolean,
): Promise<Pick<ApplianceStateContent, 'applianceKey' | 'collections'>> {
  const directory = join(stateDirectory, CONFIG_DIRECTORY);
  const collections: Record<string, string> = {};
  for (const name of (await readNames(directory)).sort()) {
    const [, collection] = COLLECTION_FILE.exec(name) ?? [];
    if (collection === undefined || LEFT_OUT.has(collection)) continue;
    const bytes = await readSmallFile(join(directory, name));
    if (bytes !== undefined) collections[collection] = bytes.toString('utf8');
  }
  const key = isEncrypted ? await readSmallFile(join(stateDirectory, KEY_FILE)) : undefined;
  return { applianceKey: key?.toString('utf8') ?? null, collections };
}

/** What the catalog alone knows and a new appliance needs. @throws ApplianceError CATALOG_DAMAGED */
export async function readCatalogRecords(catalog: Pick<Catalog, 'records'>): Promise<CatalogRecords> {
  const sessions = await catalog.records<unknown>('session/');
  const runs = [...(await catalog.records<{ readonly startedAt?: string | null }>('run/'))];
  runs.sort(([, a], [, b]) => ((a.startedAt ?? '') < (b.startedAt ?? '') ? 1 : -1));
  return {
    records: Object.fromEntries([...sessions].filter(([name]) => RECORDS_OF_DECISIONS.test(name))),
    runs: Object.fromEntries(runs.slice(0, MAX_RUNS)),
  };
}

/**
 * Puts a state into a state directory that is being made: key, configuration, where the audit log goes on, and the records for the
 * catalog that will be made. Can be repeated; `state.json` comes after it. @throws ApplianceError REPOSITORY_CORRUPT, NO_SPACE, IO_FAILED
 */
export async function restoreApplianceState(
  stateDirectory: string,
  state: { readonly createdAt: string; readonly anchor: unknown; readonly content: unknown },
): Promise<RestoredState> {
  const content = checkContent(state.content);
  const directory = join(stateDirectory, CONFIG_DIRECTORY);
  await makeDirectoryDurably(directory);
  const documents: Record<string, number> = {};
  for (const [name, text] of Object.entries(content.collections)) {
    if (!COLLECTION_FILE.test(`${name}.json`) || LEFT_OUT.has(name)) continue;
    const path = join(directory, `${name}.json`);
    documents[name] = decodeCollection(Buffer.from(text, 'utf8'), { name, path }).records.length;
    await writeDurably(path, text);
  }
  if (content.applianceKey !== null) await writeDurably(join(stateDirectory, KEY_FILE), content.applianceKey);
  await continueAudit(stateDirectory, content.auditSegment, state.anchor as AuditAnchor | null);
  const { records, runs } = content;
  await writeDurably(join(stateDirectory, RECORDS_FILE), `${JSON.stringify({ records, runs })}\n`);
  const hasSecrets = content.applianceKey !== null;
  return { createdAt: state.createdAt, documents, records: Object.keys(records).length, hasSecrets };
}

/** Takes records that `restoreApplianceState` left into the catalog, once. Errors as the catalog's; IO_FAILED. */
export async function adoptRestoredRecords(
  stateDirectory: string,
  catalog: Pick<Catalog, 'records' | 'putRecord'>,
): Promise<void> {
  const path = join(stateDirectory, RECORDS_FILE);
  const bytes = await readSmallFile(path);
  if (bytes === undefined) return;
  const { records, runs } = JSON.parse(bytes.toString('utf8')) as CatalogRecords;
  for (const [prefix, all] of [
    ['session/', records],
    ['run/', runs],
  ] as const) {
    const known = await catalog.records(prefix);
    for (const [name, record] of Object.entries(all)) {
      if (!known.has(name)) await catalog.putRecord(prefix, name, record);
    }
  }
  try {
    await realFileSystem.unlink(path);
  } catch (error) {
    throw storageError(error, 'remove', path);
  }
  await syncDirectory(stateDirectory);
}

/** A first segment that goes on from the end that is known of the lost log: its anchors then hold for both. */
async function continueAudit(stateDirectory: string, segment: number, anchor: AuditAnchor | null): Promise<void> {
  if (anchor === null || anchor.sequence === 0) return;
  const files = new SegmentFiles(join(stateDirectory, AUDIT_DIRECTORY), realFileSystem);
  await files.prepare();
  if ((await files.numbers()).length > 0) return;
  const header = encodeHeader({
    format: AUDIT_FORMAT,
    version: AUDIT_VERSION,
    segment: segment + 1,
    sequence: anchor.sequence + 1,
    previous: anchor.hash,
  });
  await writeDurably(files.path(segment + 1), header);
}

function checkContent(content: unknown): ApplianceStateContent {
  const state = content as ApplianceStateContent;
  if (typeof content !== 'object' || content === null || state.version !== 1) {
    throw new ApplianceError('REPOSITORY_FORMAT', 'the state of the appliance was written by another version');
  }
  return state;
}

async function readNames(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw storageError(error, 'list', directory);
  }
}
