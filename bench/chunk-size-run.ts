// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import type { BlockDevice } from '../appliance/block/block-device.ts';
import { walkExtents } from '../appliance/block/extent-walk.ts';
import { openFileDevice } from '../appliance/block/file-device.ts';
import { Catalog } from '../appliance/catalog/catalog.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { type ContentKey, ZERO_KEY } from '../appliance/core/content-id.ts';
import type { Extent } from '../appliance/core/extents.ts';
import { newRepositoryConfig, sealConfig } from '../appliance/repository/config.ts';
import { DirectoryStore } from '../appliance/repository/directory-store.ts';
import { Repository } from '../appliance/repository/repository.ts';
import { type IngestResult, ingest } from '../appliance/volume/ingest.ts';
import { PointDevice } from '../appliance/volume/point-device.ts';
import { randomBytesOf } from './generated-content.ts';
import { Seeded } from './statistics.ts';
import { storedBytes } from './stored-bytes.ts';

/*
 * One chunk size, in a process of its own: node bench/chunk-size-run.ts DISK CHUNK-BYTES DIRECTORY READS
 * Prints a ChunkSizeFigures.
 */

export interface ChunkSizeFigures {
  readonly chunkBytes: number;
  readonly ingestSeconds: number;
  readonly ingestCpuSeconds: number;
  /** Bytes of the chunks that are not zero, and of the different ones among them. */
  readonly dataBytes: number;
  readonly uniqueBytes: number;
  readonly repositoryBytes: number;
  readonly catalogBytes: number;
  /** Random 4 KiB reads of data with empty caches: 16 at a time, and one after another. */
  readonly randomIops: number;
  readonly randomLatencyUs: number;
  /** An incremental after 64 KiB were written in 1,024 places. */
  readonly changedReadBytes: number;
  readonly changedStoredBytes: number;
  readonly changedSeconds: number;
}

const READ_BYTES = 4096;
const DEPTH = 16;
const GRANULE_BYTES: number = 64 * 1024;
const CHANGED_GRANULES = 1024;
/** Larger chunks get the same cache in bytes as the appliance has by default; small here, so that reads miss it. */
const CACHE_BYTES: number = 32 * 1024 * 1024;

const [diskPath = '', chunkText = '', directory = '', readsText = ''] = process.argv.slice(2);
const chunkBytes = Number(chunkText);
const reads = Number(readsText);

await using disk = await openFileDevice(diskPath, 'read-only');
await using scope = new AsyncDisposableStack();
const store = await DirectoryStore.open(join(directory, 'repository'));
const made = newRepositoryConfig({ recoveryKey: undefined, createdAt: new Date(0).toISOString(), chunkBytes });
const { mac: _, ...rest } = made.config;
const config = sealConfig({ ...rest, encryption: 'aes-256-gcm' }, made.masterKey);
const catalog = scope.use(await Catalog.open(join(directory, 'catalog')));
const repository = scope.use(
  new Repository({ store, config, masterKey: made.masterKey, index: catalog, resources: { cacheBytes: CACHE_BYTES } }),
);

interface Ingested {
  readonly result: IngestResult;
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly newChunkBytes: number;
  readonly storedBytes: number;
}

async function run(source: BlockDevice, changes: AsyncIterable<Extent>, base: ContentKey): Promise<Ingested> {
  const began = systemClock.elapsedMs();
  const cpu = process.cpuUsage();
  await using writer = repository.openWriter();
  const result = await ingest({ source, changes, base, reader: repository.reader, writer });
  await writer.seal();
  const used = process.cpuUsage(cpu);
  return {
    result,
    seconds: (systemClock.elapsedMs() - began) / 1000,
    cpuSeconds: (used.user + used.system) / 1e6,
    newChunkBytes: writer.stats.newChunkBytes,
    storedBytes: writer.stats.storedBytes,
  };
}

/** Random 4 KiB of the disk's data, `depth` at a time; settles with the seconds it took. */
async function readRandomly(
  device: PointDevice,
  data: readonly Extent[],
  depth: number,
  count: number,
): Promise<number> {
  const total = data.reduce((sum, extent) => sum + extent.length, 0);
  const random = new Seeded(depth);
  const place = (): number => {
    let at = random.below(Math.floor(total / READ_BYTES)) * READ_BYTES;
    for (const extent of data) {
      if (at < extent.length) return Math.min(extent.offset + at, device.sizeBytes - READ_BYTES);
      at -= extent.length;
    }
    return 0;
  };
  repository.reader.dropCaches();
  const began = systemClock.elapsedMs();
  let left = count;
  const lane = async (): Promise<void> => {
    const into = Buffer.alloc(READ_BYTES);
    while (left-- > 0) {
      const offset = place();
      if (!device.readCached(offset, into)) await device.read(offset, into);
    }
  };
  await Promise.all(Array.from({ length: depth }, lane));
  return (systemClock.elapsedMs() - began) / 1000;
}

/** The disk with random content in some granules of 64 KiB, and those granules as a bitmap would tell them. */
function withChanges(device: BlockDevice): { readonly source: BlockDevice; readonly changes: Extent[] } {
  const random = new Seeded(9);
  const granules = Math.floor(device.sizeBytes / GRANULE_BYTES);
  const changed = new Set(Array.from({ length: CHANGED_GRANULES }, () => random.below(granules)));
  const source: BlockDevice = Object.create(device, {
    read: {
      value: async (offset: number, into: Buffer): Promise<void> => {
        await device.read(offset, into);
        const last = Math.floor((offset + into.length - 1) / GRANULE_BYTES);
        for (let granule = Math.floor(offset / GRANULE_BYTES); granule <= last; granule++) {
          if (!changed.has(granule)) continue;
          const start = granule * GRANULE_BYTES;
          const from = Math.max(start, offset);
          const end = Math.min(start + GRANULE_BYTES, offset + into.length);
          randomBytesOf(granule, GRANULE_BYTES).copy(into, from - offset, from - start, end - start);
        }
      },
    },
  });
  const changes = [...changed]
    .toSorted((a, b) => a - b)
    .map((granule): Extent => ({ offset: granule * GRANULE_BYTES, length: GRANULE_BYTES, kind: 'data' }));
  return { source, changes };
}

async function* each(extents: readonly Extent[]): AsyncGenerator<Extent, void, void> {
  yield* extents;
}

const whole = { offset: 0, length: disk.sizeBytes };
const data: Extent[] = [];
for await (const extent of walkExtents(disk, whole)) if (extent.kind === 'data') data.push(extent);
const full = await run(disk, walkExtents(disk, whole), ZERO_KEY);
const repositoryBytes = await storedBytes(join(directory, 'repository'));
const catalogBytes = await storedBytes(join(directory, 'catalog'));
const point = { reader: repository.reader, chunkBytes, sizeBytes: disk.sizeBytes, root: full.result.root };
const device = new PointDevice(point);
const deepSeconds = await readRandomly(device, data, DEPTH, reads);
const singleSeconds = await readRandomly(device, data, 1, Math.ceil(reads / 4));
const { source, changes } = withChanges(disk);
const incremental = await run(source, each(changes), full.result.root);
const figures: ChunkSizeFigures = {
  chunkBytes,
  ingestSeconds: full.seconds,
  ingestCpuSeconds: full.cpuSeconds,
  dataBytes: full.result.dataChunks * chunkBytes,
  uniqueBytes: full.newChunkBytes,
  repositoryBytes,
  catalogBytes,
  randomIops: reads / deepSeconds,
  randomLatencyUs: (singleSeconds * 1e6) / Math.ceil(reads / 4),
  changedReadBytes: incremental.result.readBytes,
  changedStoredBytes: incremental.storedBytes,
  changedSeconds: incremental.seconds,
};
process.stdout.write(`${JSON.stringify(figures)}\n`);
