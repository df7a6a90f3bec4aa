// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { keyAt, keyFromHex, keyToHex, ZERO_KEY } from '../../appliance/core/content-id.ts';
import { type Extent, normalizeRanges, type Range } from '../../appliance/core/extents.ts';
import { newPointId, parseMachineId } from '../../appliance/core/ids.ts';
import type { ChunkWriter } from '../../appliance/repository/chunk-writer.ts';
import { FORMAT_VERSION } from '../../appliance/repository/format.ts';
import type { PointAttachment, RecoveryPoint } from '../../appliance/repository/manifest.ts';
import type { Repository } from '../../appliance/repository/repository.ts';
import { ingest } from '../../appliance/volume/ingest.ts';
import { PointDevice } from '../../appliance/volume/point-device.ts';
import { randomSource } from './crashing-file-system.ts';

export const MACHINE_ID: string = '0b1c2d3e-4f50-4617-8899-aabbccddeeff';
const PIECE_BYTES = 4096;
const STEP_BYTES: number = 1024 * 1024;

/** Seeded bytes and numbers. */
export class Dice {
  readonly #next: () => number;

  constructor(seed: number) {
    this.#next = randomSource(seed);
  }

  /** 0 to limit - 1. */
  below(limit: number): number {
    return Math.floor(this.#next() * limit);
  }

  /** Bytes that do not compress. */
  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let at = 0; at + 4 <= length; at += 4) bytes.writeUInt32LE(Math.floor(this.#next() * 2 ** 32), at);
    return bytes;
  }
}

/** A disk as a flat buffer, with what changed since it was asked last. */
export class ModelDisk {
  readonly content: Buffer;
  readonly #dice: Dice;
  #changed: Range[] = [];

  constructor(sizeBytes: number, dice: Dice) {
    this.content = Buffer.alloc(sizeBytes);
    this.#dice = dice;
    this.#changed.push({ offset: 0, length: sizeBytes });
  }

  /** Writes something at a random place: noise, text that compresses, a copy of another place, or zeroes. */
  scribble(maxBytes: number): void {
    const { content } = this;
    const offset = this.#dice.below(content.length);
    const length = Math.min(content.length - offset, 1 + this.#dice.below(maxBytes));
    const part = content.subarray(offset, offset + length);
    switch (this.#dice.below(4)) {
      case 0:
        part.fill(this.#dice.bytes(Math.min(length, PIECE_BYTES) + 4).subarray(0, Math.min(length, PIECE_BYTES)));
        break;
      case 1:
        part.fill(`line ${this.#dice.below(1000)}\n`);
        break;
      case 2:
        Buffer.from(content.subarray(0, length)).copy(part);
        break;
      default:
        part.fill(0);
    }
    this.#changed.push({ offset, length });
  }

  /** Fills all of the disk with noise, which takes as much room as it can. */
  fillWithNoise(): void {
    this.#dice.bytes(this.content.length).copy(this.content);
    this.#changed.push({ offset: 0, length: this.content.length });
  }

  /** Extents since the last call, as a tracker would tell them. */
  takeChanges(): Extent[] {
    const changes = normalizeRanges(this.#changed);
    this.#changed = [];
    return changes.map(({ offset, length }) => ({ offset, length, kind: 'data' as const }));
  }
}

export interface PointRequest {
  readonly disks: Readonly<Record<string, ModelDisk>>;
  readonly parent?: RecoveryPoint | undefined;
  readonly attachment?: Buffer;
  readonly sequence?: number;
  readonly createdAtMs?: number;
}

/** Backs the disks up: incrementally on a parent. The manifest is the last thing that is written; the catalog is not touched. */
export async function writePoint(repository: Repository, request: PointRequest): Promise<RecoveryPoint> {
  const bases = (request.parent?.disks ?? []).map(({ root }) => keyFromHex(root));
  using _ = repository.hold({ maps: bases, chunks: [] });
  await using writer = repository.openWriter();
  const disks: RecoveryPoint['disks'][number][] = [];
  for (const [name, disk] of Object.entries(request.disks)) {
    const before = request.parent?.disks.find((one) => one.name === name);
    await using source = memoryDevice({ sizeBytes: disk.content.length });
    for (let at = 0; at < disk.content.length; at += STEP_BYTES) {
      await source.write(at, disk.content.subarray(at, at + STEP_BYTES));
    }
    const all: Extent[] = [{ offset: 0, length: disk.content.length, kind: 'data' }];
    const changes = disk.takeChanges();
    const result = await ingest({
      source,
      changes: before === undefined ? all : changes,
      base: before === undefined ? ZERO_KEY : keyFromHex(before.root),
      reader: repository.reader,
      writer,
    });
    disks.push({
      name,
      sizeBytes: disk.content.length,
      root: keyToHex(result.root),
      dataBytes: Math.min(disk.content.length, result.dataChunks * repository.chunkBytes),
      identity: {},
      kind: before === undefined ? 'full' : 'incremental',
      reason: 'a test',
      stats: { changedBytes: result.coveredBytes, readBytes: result.readBytes, newChunkBytes: 0, storedBytes: 0 },
    });
  }
  const attachments = request.attachment === undefined ? [] : [await attach(writer, request.attachment)];
  await writer.seal();
  const point = describe(request, disks, attachments);
  await repository.manifests.put(point);
  return point;
}

async function attach(writer: ChunkWriter, bytes: Buffer): Promise<PointAttachment> {
  const ids = await writer.putBytes(bytes);
  const chunks = Array.from({ length: ids.length / 32 }, (_, n) => keyToHex(keyAt(ids, n * 32)));
  return { name: 'domain.xml', lengthBytes: bytes.length, chunks };
}

function describe(
  request: PointRequest,
  disks: RecoveryPoint['disks'],
  attachments: readonly PointAttachment[],
): RecoveryPoint {
  return {
    format: 'understudy-point',
    version: FORMAT_VERSION,
    id: newPointId(),
    machine: { id: parseMachineId(MACHINE_ID), name: 'web' },
    sequence: request.sequence ?? (request.parent?.sequence ?? 0) + 1,
    createdAt: new Date(request.createdAtMs ?? 0).toISOString(),
    kind: request.parent === undefined ? 'full' : 'incremental',
    reason: 'a test',
    parent: request.parent?.id ?? null,
    consistency: 'crash-consistent',
    disks,
    skipped: [],
    attachments,
    tracker: {},
    durationMs: 1,
  };
}

/** The whole content of one disk of a point. */
export async function readDisk(repository: Repository, point: RecoveryPoint, name: string): Promise<Buffer> {
  const disk = point.disks.find((one) => one.name === name);
  assert.ok(disk !== undefined, `the point has the disk ${name}`);
  const { reader, chunkBytes } = repository;
  await using device = new PointDevice({ reader, chunkBytes, root: keyFromHex(disk.root), sizeBytes: disk.sizeBytes });
  const content = Buffer.alloc(disk.sizeBytes);
  for (let at = 0; at < content.length; at += STEP_BYTES) {
    await device.read(at, content.subarray(at, at + STEP_BYTES));
  }
  return content;
}

/** Asserts that a disk of a point has exactly this content; without printing megabytes. */
export async function assertDisk(
  repository: Repository,
  point: RecoveryPoint,
  name: string,
  expected: Buffer,
): Promise<void> {
  const actual = await readDisk(repository, point, name);
  assert.equal(actual.length, expected.length);
  const at = actual.equals(expected) ? -1 : actual.findIndex((byte, n) => byte !== expected[n]);
  assert.equal(at, -1, `point ${point.id}, ${name}: the first different byte is at ${at}`);
}
