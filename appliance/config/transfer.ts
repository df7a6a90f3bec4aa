// SPDX-License-Identifier: Apache-2.0
import { createHash, randomBytes, scryptSync } from 'node:crypto';
import { canonicalJson } from '../core/canonical-json.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Collection } from './collection.ts';
import { mapSecrets } from './map-secrets.ts';
import { SecretBox } from './secret-box.ts';

/** A document in an exported configuration. */
export interface ExportedDocument {
  readonly id: string;
  readonly value: unknown;
}

/** A configuration as a file; `docs/formats/configuration.md`. */
export interface ExportedConfiguration {
  readonly format: 'understudy-configuration';
  readonly version: 1;
  readonly createdAt: string;
  /** How the key of the secrets is made from the passphrase; null when there are no secrets in it. */
  readonly secrets: { readonly n: number; readonly r: number; readonly p: number; readonly salt: string } | null;
  readonly collections: Readonly<Record<string, readonly ExportedDocument[]>>;
  /** Of the canonical JSON of all the rest. */
  readonly sha256: string;
}

/** What an import would change, or has changed, in one collection: ids. */
export interface CollectionDifference {
  readonly collection: string;
  readonly added: readonly string[];
  readonly changed: readonly string[];
  readonly removed: readonly string[];
}

export interface ImportPlan {
  readonly differences: readonly CollectionDifference[];
  /** All documents of each collection that would be changed. */
  readonly documents: ReadonlyMap<Collection<unknown>, ReadonlyMap<string, unknown>>;
}

/** scrypt's cost (RFC 7914): 128 MiB and about 0.3 s for each try of a passphrase. */
export const TRANSFER_COST: { readonly n: number; readonly r: number; readonly p: number } = { n: 2 ** 17, r: 8, p: 1 };
export const MIN_PASSPHRASE_CHARACTERS = 12;

const FORMAT = 'understudy-configuration';
const VERSION = 1;
const MAX_SCRYPT_BYTES: number = 256 * 1024 * 1024;
const SALT_BYTES = 32;

/** The documents of these collections as a file; secrets sealed under the passphrase, or left out without one. */
export function exportConfiguration(
  collections: readonly Collection<unknown>[],
  secrets: SecretBox,
  options: {
    readonly createdAt: string;
    readonly passphrase?: string | undefined;
    readonly cost?: typeof TRANSFER_COST;
  },
): ExportedConfiguration {
  const { createdAt, passphrase, cost = TRANSFER_COST } = options;
  const parameters = passphrase === undefined ? null : { ...cost, salt: randomBytes(SALT_BYTES).toString('base64') };
  const box = parameters === null || passphrase === undefined ? undefined : boxOf(passphrase, parameters);
  const exported = Object.fromEntries(
    [...collections]
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .map((collection): [string, readonly ExportedDocument[]] => [
        collection.name,
        collection.list().map(({ id, value }) => ({
          id,
          value: mapSecrets(value, { collection: collection.name, id }, (place, secret) =>
            box?.seal(place, secrets.open(place, secret)),
          ),
        })),
      ]),
  );
  const content = JSON.parse(
    JSON.stringify({ format: FORMAT, version: VERSION, createdAt, secrets: parameters, collections: exported }),
  ) as Omit<ExportedConfiguration, 'sha256'>;
  return { ...content, sha256: digestOf(content) };
}

/**
 * What a file would change: everything in it is checked before anything is done. Collections that it does not have stay as they are. A
 * secret that was left out stays what it is here. @throws ApplianceError CONFIG_DAMAGED, CONFIG_FORMAT, BAD_ARGUMENT, SECRET_UNREADABLE
 */
export function planImport(
  text: string,
  collections: readonly Collection<unknown>[],
  context: { readonly secrets: SecretBox; readonly passphrase?: string | undefined },
): ImportPlan {
  const file = parseExport(text);
  const box = importBox(file, context.passphrase);
  const documents = new Map<Collection<unknown>, ReadonlyMap<string, unknown>>();
  for (const [name, exported] of Object.entries(file.collections)) {
    const collection = collections.find((known) => known.name === name);
    if (collection === undefined)
      throw new ApplianceError('CONFIG_FORMAT', `the file has ${name}, which cannot be imported`);
    const values = exported.map(({ id, value }): [string, unknown] => {
      const place = { collection: name, id };
      const resealed = mapSecrets(value, place, (at, secret) => {
        if (box === undefined)
          throw new ApplianceError('SECRET_UNREADABLE', 'the file has secrets, and says not under which key');
        return context.secrets.seal(at, box.open(at, secret));
      });
      return [id, collection.parse(id, withKnownSecrets(resealed, collection.find(id)?.value))];
    });
    documents.set(collection, new Map(values));
  }
  const differences = [...documents].map(([collection, values]) => differenceOf(collection, values, context.secrets));
  return { differences, documents };
}

/** Makes the plan true. When a step fails, those before it are taken back. @throws ApplianceError as `Collection.replaceAll` */
export async function applyImport(plan: ImportPlan): Promise<void> {
  const undo: (() => Promise<void>)[] = [];
  try {
    for (const [collection, values] of plan.documents) {
      const before = new Map(collection.list().map(({ id, value }) => [id, value]));
      undo.unshift(() => collection.replaceAll(before));
      await collection.replaceAll(values);
    }
  } catch (error) {
    for (const step of undo) await step();
    throw error;
  }
}

function parseExport(text: string): ExportedConfiguration {
  let file: ExportedConfiguration;
  try {
    file = JSON.parse(text) as ExportedConfiguration;
  } catch (cause) {
    throw new ApplianceError('CONFIG_DAMAGED', 'the file is not JSON', { cause });
  }
  if (typeof file !== 'object' || file === null || file.format !== FORMAT) {
    throw new ApplianceError('CONFIG_FORMAT', 'the file is no exported configuration');
  }
  const { version }: { readonly version: unknown } = file;
  if (version !== VERSION) {
    throw new ApplianceError(
      'CONFIG_FORMAT',
      `the file has format version ${String(version)}; this program knows ${VERSION}`,
    );
  }
  const { sha256, ...content } = file;
  if (sha256 !== digestOf(content)) {
    throw new ApplianceError('CONFIG_DAMAGED', 'the file does not match its checksum: it was changed, or is not whole');
  }
  return file;
}

function importBox({ secrets }: ExportedConfiguration, passphrase: string | undefined): SecretBox | undefined {
  if (secrets === null) return undefined;
  if (passphrase === undefined)
    throw new ApplianceError('BAD_ARGUMENT', 'the file has secrets: its passphrase is needed');
  const { n, r, p } = secrets;
  if (n > TRANSFER_COST.n || r > 8 || p > 1)
    throw new ApplianceError('CONFIG_FORMAT', 'the key of the file costs too much');
  return boxOf(passphrase, secrets);
}

function boxOf(passphrase: string, { n, r, p, salt }: NonNullable<ExportedConfiguration['secrets']>): SecretBox {
  if (passphrase.length < MIN_PASSPHRASE_CHARACTERS) {
    throw new ApplianceError('BAD_ARGUMENT', `a passphrase has at least ${MIN_PASSPHRASE_CHARACTERS} characters`);
  }
  const secret = scryptSync(passphrase.normalize('NFKC'), Buffer.from(salt, 'base64'), 32, {
    N: n,
    r,
    p,
    maxmem: MAX_SCRYPT_BYTES,
  });
  // One key, of this file alone: its id says no more than that.
  const key = { id: '00000000', secret };
  return new SecretBox({ current: key, find: (id) => (id === key.id ? key : undefined) });
}

/** A secret that the file leaves out stays what it is here. */
function withKnownSecrets(value: unknown, known: unknown): unknown {
  if (typeof value !== 'object' || value === null || typeof known !== 'object' || known === null) return value;
  const kept: Record<string, unknown> = {};
  mapSecrets(known, { collection: '', id: '' }, ({ field }, secret) => {
    if (!field.includes('.') && !(field in value)) kept[field] = secret;
    return secret;
  });
  return { ...value, ...kept };
}

function differenceOf(
  collection: Collection<unknown>,
  values: ReadonlyMap<string, unknown>,
  secrets: SecretBox,
): CollectionDifference {
  const plainOf = (id: string, value: unknown): string =>
    canonicalJson(
      mapSecrets(value, { collection: collection.name, id }, (place, secret) => secrets.open(place, secret)),
    );
  const added = [...values.keys()].filter((id) => collection.find(id) === undefined);
  const changed = [...values].flatMap(([id, value]) => {
    const before = collection.find(id);
    return before !== undefined && plainOf(id, before.value) !== plainOf(id, value) ? [id] : [];
  });
  const removed = collection.list().flatMap(({ id }) => (values.has(id) ? [] : [id]));
  return { collection: collection.name, added, changed, removed };
}

function digestOf(content: object): string {
  return createHash('sha256').update(canonicalJson(content)).digest('hex');
}
