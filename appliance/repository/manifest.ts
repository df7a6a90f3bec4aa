// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import { Ajv } from 'ajv';
import { type ContentKey, keyFromHex, ZERO_KEY } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import type { MachineId, PointId } from '../core/ids.ts';
import { checkStoredJson, corruptObject, encodeJson, parseStoredJson, withMac } from './authenticated-json.ts';
import { FORMAT_VERSION } from './format.ts';

/** How a recovery point's blocks were found. */
export type PointKind = 'full' | 'incremental' | 'full-scan';
export type Consistency = 'crash-consistent' | 'file-system-consistent' | 'application-consistent';

/** Numbers of one disk in one run. All in bytes. */
export interface DiskStats {
  /** What the tracker said may differ; for a full or a scan, what differs. */
  readonly changedBytes: number;
  readonly readBytes: number;
  /** Plain bytes of chunks that the repository did not have. */
  readonly newChunkBytes: number;
  /** What those take in packs, with nodes and headers. */
  readonly storedBytes: number;
}

/** One disk of a recovery point. */
export interface PointDisk {
  /** The target name on the machine (`vda`), or `disk` for an NBD source. Unique within the point. */
  readonly name: string;
  readonly sizeBytes: number;
  /** Id of the map's root node, 64 hexadecimal digits; all zero for a disk of zeroes. */
  readonly root: string;
  readonly dataBytes: number;
  /** What recognises the same disk at the next run; plain strings that the tracker compares. */
  readonly identity: Readonly<Record<string, string>>;
  readonly kind: PointKind;
  readonly reason: string;
  readonly stats: DiskStats;
}

/** A file that belongs to the point (the machine's definition, NVRAM, …), stored as chunks. */
export interface PointAttachment {
  readonly name: string;
  readonly lengthBytes: number;
  readonly chunks: readonly string[];
}

/** A disk that is not in the point, and why. */
export interface SkippedDisk {
  readonly name: string;
  readonly reason: string;
}

/**
 * The place of a point in the machine's journal: it holds the state after the record `sequence`, so that every later
 * moment is this point and the records after it.
 */
export interface PointJournal {
  /** 32 hexadecimal digits, those of the log's segments. */
  readonly logId: string;
  /** 0 for a point that was taken before the log's first record. */
  readonly sequence: number;
  /** Time of that record, in microseconds since the Unix epoch. */
  readonly timeUs: number;
  /** The number under which the log knows each disk of the point. A disk that was replaced or resized gets another one. */
  readonly disks: Readonly<Record<string, number>>;
}

/** A recovery point: the manifest whose presence makes it exist. `docs/formats/repository.md`, "Manifest". */
export interface RecoveryPoint {
  readonly format: 'understudy-point';
  readonly version: number;
  readonly id: PointId;
  readonly machine: { readonly id: MachineId; readonly name: string };
  /** Orders the points of a machine, also when the clock jumped: one more than the machine's newest point had. */
  readonly sequence: number;
  /** When the state was taken (ISO 8601, UTC). */
  readonly createdAt: string;
  readonly kind: PointKind;
  /** Why it is of this kind, in words. */
  readonly reason: string;
  readonly parent: PointId | null;
  readonly consistency: Consistency;
  readonly disks: readonly PointDisk[];
  readonly skipped: readonly SkippedDisk[];
  readonly attachments: readonly PointAttachment[];
  /** The tracker's position to continue from (`{kind: 'libvirt-checkpoint', name, …}`). */
  readonly tracker: Readonly<Record<string, string>>;
  /** Of a machine under continuous protection. */
  readonly journal?: PointJournal;
  readonly durationMs: number;
}

const hexId = { type: 'string', pattern: '^[0-9a-f]{64}$' } as const;
const bytes = { type: 'integer', minimum: 0 } as const;
/** JSON schema of a manifest. */
export const pointSchema: object = {
  type: 'object',
  required: [
    'format',
    'version',
    'id',
    'machine',
    'sequence',
    'createdAt',
    'kind',
    'reason',
    'parent',
    'consistency',
    'disks',
    'skipped',
    'attachments',
    'tracker',
    'durationMs',
  ],
  properties: {
    format: { const: 'understudy-point' },
    version: { const: FORMAT_VERSION },
    id: { type: 'string', pattern: '^[0-9a-f]{16}$' },
    machine: {
      type: 'object',
      required: ['id', 'name'],
      properties: { id: { type: 'string' }, name: { type: 'string' } },
    },
    sequence: { type: 'integer', minimum: 1 },
    createdAt: { type: 'string' },
    kind: { enum: ['full', 'incremental', 'full-scan'] },
    disks: {
      type: 'array',
      minItems: 1,
      items: {
        type: 'object',
        required: ['name', 'sizeBytes', 'root', 'dataBytes', 'identity', 'kind', 'reason', 'stats'],
        properties: { name: { type: 'string' }, sizeBytes: bytes, root: hexId, dataBytes: bytes },
      },
    },
    attachments: {
      type: 'array',
      items: {
        type: 'object',
        required: ['name', 'lengthBytes', 'chunks'],
        properties: { name: { type: 'string' }, lengthBytes: bytes, chunks: { type: 'array', items: hexId } },
      },
    },
    journal: {
      type: 'object',
      required: ['logId', 'sequence', 'timeUs', 'disks'],
      properties: {
        logId: { type: 'string', pattern: '^[0-9a-f]{32}$' },
        sequence: bytes,
        timeUs: bytes,
        disks: { type: 'object', additionalProperties: { type: 'integer', minimum: 0, maximum: 65_534 } },
      },
    },
  },
};

const isPoint = new Ajv({ strict: false, validateSchema: false }).compile<RecoveryPoint & { readonly mac: string }>(
  pointSchema,
);

/** The object key of a point's manifest. */
export function manifestKey(machine: MachineId, point: PointId): string {
  return `points/${machine}/${point}.json`;
}

/** The manifest as stored. */
export function encodeManifest(point: RecoveryPoint, key: KeyObject): Buffer {
  return encodeJson(withMac(point, key));
}

/** Checks shape, MAC and every byte. @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT */
export function decodeManifest(stored: Buffer, key: KeyObject, name: string): RecoveryPoint {
  const value = parseStoredJson(stored, name);
  refuseOtherVersion(value, name);
  if (!isPoint(value)) throw corruptObject(name, 'is not a whole manifest');
  checkStoredJson(stored, value, key, name);
  const { mac: _, ...point } = value;
  return point;
}

/** @throws ApplianceError REPOSITORY_FORMAT */
export function refuseOtherVersion(value: object, name: string): void {
  if ('version' in value && value.version !== FORMAT_VERSION) {
    throw new ApplianceError(
      'REPOSITORY_FORMAT',
      `${name} has format version ${String(value.version)}; this program knows ${FORMAT_VERSION}`,
    );
  }
}

/** Every content id that a point names at its top: the roots of its disks and the chunks of its attachments. */
export function rootsOf(point: RecoveryPoint): { readonly maps: ContentKey[]; readonly chunks: ContentKey[] } {
  return {
    maps: point.disks.map((disk) => keyFromHex(disk.root)).filter((key) => key !== ZERO_KEY),
    chunks: point.attachments.flatMap((file) => file.chunks.map(keyFromHex)).filter((key) => key !== ZERO_KEY),
  };
}
