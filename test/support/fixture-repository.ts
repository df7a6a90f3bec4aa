// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { walkExtents } from '../../appliance/block/extent-walk.ts';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { type ContentKey, keyAt, keyFromHex, keyToHex, ZERO_KEY } from '../../appliance/core/content-id.ts';
import { type FileSystem, realFileSystem } from '../../appliance/core/file-system.ts';
import { type MachineId, newPointId, parseMachineId } from '../../appliance/core/ids.ts';
import type { HostUptime } from '../../appliance/core/uptime.ts';
import {
  newRepositoryConfig,
  type RepositoryConfig,
  sealConfig,
  storeNewConfig,
} from '../../appliance/repository/config.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import { FORMAT_VERSION } from '../../appliance/repository/format.ts';
import type { PointAttachment, PointDisk, PointJournal, RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { Repository, type RepositoryResources } from '../../appliance/repository/repository.ts';
import { ingest } from '../../appliance/volume/ingest.ts';

export interface FixtureOptions {
  readonly isEncrypted?: boolean;
  readonly resources?: Partial<RepositoryResources>;
  /** What the repository is written through; the catalog always uses the real one. */
  readonly fileSystem?: FileSystem;
  /** Default: the machine's. */
  readonly uptime?: () => HostUptime;
}

export interface PointContent {
  readonly machine?: { readonly id?: string; readonly name: string };
  /** By disk name; read, not closed. */
  readonly disks: Readonly<Record<string, BlockDevice>>;
  readonly attachments?: Readonly<Record<string, Buffer>>;
  /** By disk name; what recognises the disks at the hypervisor. */
  readonly identities?: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** The point that the disks are ingested on top of. */
  readonly parent?: RecoveryPoint;
  readonly journal?: PointJournal;
  /** Default: the beginning of 1970. */
  readonly takenAtMs?: number;
}

const SMALL_RESOURCES: Partial<RepositoryResources> = {
  threads: 2,
  cacheBytes: 16 * 1024 * 1024,
  plainSlabs: 8,
  frameSlabs: 4,
};
const DEFAULT_MACHINE_ID = '0b1c2d3e-4f50-4617-8899-aabbccddeeff';

/** A repository and its catalog in a directory, the real ones, with points made from block devices. */
export class FixtureRepository implements AsyncDisposable {
  readonly directory: string;
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly #secret: { readonly config: RepositoryConfig; readonly masterKey: Buffer };
  readonly #options: FixtureOptions;

  private constructor(
    directory: string,
    made: { repository: Repository; catalog: Catalog },
    secret: { config: RepositoryConfig; masterKey: Buffer },
    options: FixtureOptions,
  ) {
    this.directory = directory;
    this.repository = made.repository;
    this.catalog = made.catalog;
    this.#secret = secret;
    this.#options = options;
  }

  static async create(directory: string, options: FixtureOptions = {}): Promise<FixtureRepository> {
    const { config: plain, masterKey } = newRepositoryConfig({
      recoveryKey: undefined,
      createdAt: new Date(0).toISOString(),
    });
    // Encryption without a recovery key saves the tests the time to stretch one.
    const { mac: _, ...rest } = plain;
    const config = sealConfig(
      { ...rest, encryption: options.isEncrypted === false ? 'none' : 'aes-256-gcm' },
      masterKey,
    );
    await storeNewConfig(await DirectoryStore.open(join(directory, 'repository')), config);
    const secret = { config, masterKey };
    return new FixtureRepository(directory, await open(directory, secret, options), secret, options);
  }

  /** Closes everything and opens it again from the same directory, as a restart of the service does. */
  async reopen(changes: FixtureOptions = {}): Promise<FixtureRepository> {
    await this.close();
    const options = { ...this.#options, ...changes };
    const made = await open(this.directory, this.#secret, options);
    return new FixtureRepository(this.directory, made, this.#secret, options);
  }

  /** Opens a copy of this repository's files that lies in another directory. */
  async openCopy(directory: string, changes: FixtureOptions = {}): Promise<FixtureRepository> {
    const options = { ...this.#options, ...changes };
    return new FixtureRepository(directory, await open(directory, this.#secret, options), this.#secret, options);
  }

  /** The repository over another catalog, for rebuilding it. */
  openRepository(catalog: Catalog): Promise<Repository> {
    return openRepository(this.directory, this.#secret, this.#options, catalog);
  }

  /** Makes a recovery point that is durable and listed. */
  async addPoint(content: PointContent): Promise<RecoveryPoint> {
    await using writer = this.repository.openWriter();
    const { parent } = content;
    const disks: PointDisk[] = [];
    for (const [name, device] of Object.entries(content.disks)) {
      const before = parent?.disks.find((disk) => disk.name === name);
      const base: ContentKey = before === undefined ? ZERO_KEY : keyFromHex(before.root);
      const changes = walkExtents(device, { offset: 0, length: device.sizeBytes });
      const result = await ingest({ source: device, changes, base, reader: this.repository.reader, writer });
      disks.push({
        name,
        sizeBytes: device.sizeBytes,
        root: keyToHex(result.root),
        dataBytes: Math.min(device.sizeBytes, result.dataChunks * this.repository.chunkBytes),
        identity: content.identities?.[name] ?? {},
        kind: 'full',
        reason: 'first backup',
        stats: { changedBytes: 0, readBytes: result.readBytes, newChunkBytes: 0, storedBytes: 0 },
      });
    }
    const attachments: PointAttachment[] = [];
    for (const [name, bytes] of Object.entries(content.attachments ?? {})) {
      const ids = await writer.putBytes(bytes);
      const chunks = Array.from({ length: ids.length / 32 }, (_, index) => keyToHex(keyAt(ids, index * 32)));
      attachments.push({ name, lengthBytes: bytes.length, chunks });
    }
    await writer.seal();
    const point = this.#describe(content, disks, attachments);
    await this.repository.manifests.put(point);
    await this.catalog.putPoint(point);
    return point;
  }

  async close(): Promise<void> {
    await this.repository.close();
    await this.catalog.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #describe(
    content: PointContent,
    disks: readonly PointDisk[],
    attachments: readonly PointAttachment[],
  ): RecoveryPoint {
    const id: MachineId = parseMachineId(content.machine?.id ?? DEFAULT_MACHINE_ID);
    return {
      format: 'understudy-point',
      version: FORMAT_VERSION,
      id: newPointId(),
      machine: { id, name: content.machine?.name ?? 'web' },
      sequence: (content.parent?.sequence ?? 0) + 1,
      createdAt: new Date(content.takenAtMs ?? 0).toISOString(),
      kind: 'full',
      reason: 'first backup',
      parent: content.parent?.id ?? null,
      consistency: 'crash-consistent',
      disks,
      skipped: [],
      attachments,
      tracker: { kind: 'none' },
      ...(content.journal === undefined ? {} : { journal: content.journal }),
      durationMs: 1,
    };
  }
}

async function open(
  directory: string,
  secret: { readonly config: RepositoryConfig; readonly masterKey: Buffer },
  options: FixtureOptions,
): Promise<{ repository: Repository; catalog: Catalog }> {
  const catalog = await Catalog.open(join(directory, 'catalog'));
  try {
    return { catalog, repository: await openRepository(directory, secret, options, catalog) };
  } catch (error) {
    await catalog.close();
    throw error;
  }
}

async function openRepository(
  directory: string,
  secret: { readonly config: RepositoryConfig; readonly masterKey: Buffer },
  options: FixtureOptions,
  catalog: Catalog,
): Promise<Repository> {
  const fileSystem = options.fileSystem ?? realFileSystem;
  const store = await DirectoryStore.open(join(directory, 'repository'), fileSystem);
  const resources = { ...SMALL_RESOURCES, ...options.resources };
  const { uptime } = options;
  return new Repository({
    ...secret,
    store,
    fileSystem,
    index: catalog,
    resources,
    ...(uptime === undefined ? {} : { uptime }),
  });
}
