// SPDX-License-Identifier: Apache-2.0
import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';
import { Ajv } from 'ajv';
import { ApplianceError } from '../core/errors.ts';
import type { MachineId, PointId } from '../core/ids.ts';
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
  readonly durationMs: number;
}

const hexId = { type: 'string', pattern: '^[0-9a-f]{64}$' } as const;
const bytes = { type: 'integer', minimum: 0 } as const;
const schema = {
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
  },
} as const;

const isPoint = new Ajv({ strict: false }).compile<RecoveryPoint & { readonly mac: string }>(schema);

/** The object key of a point's manifest. */
export function manifestKey(machine: MachineId, point: PointId): string {
  return `points/${machine}/${point}.json`;
}

/** The manifest as stored: JSON with a MAC over its canonical form as last member. */
export function encodeManifest(point: RecoveryPoint, key: KeyObject): Buffer {
  const mac = macOf(point, key).toString('hex');
  return Buffer.from(`${JSON.stringify({ ...point, mac }, null, 2)}\n`);
}

/** Checks shape and MAC. @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT */
export function decodeManifest(stored: Buffer, key: KeyObject, name: string): RecoveryPoint {
  let value: unknown;
  try {
    value = JSON.parse(stored.toString('utf8'));
  } catch (cause) {
    throw corrupt(name, 'is not JSON', cause);
  }
  if (typeof value === 'object' && value !== null && 'version' in value && value.version !== FORMAT_VERSION) {
    throw new ApplianceError(
      'REPOSITORY_FORMAT',
      `${name} has format version ${String(value.version)}; this program knows ${FORMAT_VERSION}`,
    );
  }
  if (!isPoint(value)) throw corrupt(name, 'is not a whole manifest');
  const { mac, ...point } = value;
  const expected = macOf(point, key);
  const actual = Buffer.from(typeof mac === 'string' ? mac : '', 'hex');
  if (actual.length !== expected.length || !timingSafeEqual(actual, expected))
    throw corrupt(name, 'has a wrong authentication code');
  return point;
}

function macOf(point: RecoveryPoint, key: KeyObject): Buffer {
  return createHmac('sha256', key).update(canonicalJson(point)).digest();
}

/** JSON with sorted members and no white space: the same value gives the same bytes. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, member]) => `${JSON.stringify(name)}:${canonicalJson(member)}`);
  return `{${members.join(',')}}`;
}

function corrupt(name: string, what: string, cause?: unknown): ApplianceError {
  return new ApplianceError('REPOSITORY_CORRUPT', `the manifest ${name} ${what}`, {
    cause,
    details: { manifest: name },
  });
}
