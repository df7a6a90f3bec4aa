// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import { Ajv } from 'ajv';
import type { MachineId, PointId } from '../core/ids.ts';
import { checkStoredJson, corruptObject, encodeJson, parseStoredJson, withMac } from './authenticated-json.ts';
import { FORMAT_VERSION } from './format.ts';
import { refuseOtherVersion } from './manifest.ts';

export const GUARD_KINDS = ['hold', 'lock'] as const;
/** A hold ends when somebody releases it, or at its date; a lock at its date only. */
export type GuardKind = (typeof GUARD_KINDS)[number];

/** What keeps a recovery point from being deleted. `docs/formats/repository.md`, "Holds and locks". */
export interface PointGuard {
  readonly format: `understudy-${GuardKind}`;
  readonly version: number;
  readonly point: PointId;
  readonly machine: MachineId;
  /** In the operator's words; empty where nobody gave one. */
  readonly reason: string;
  /** ISO 8601, UTC. */
  readonly since: string;
  /** Null for a hold without a date. */
  readonly until: string | null;
  /** The lived time (`lived-time.ts`) when it was placed, and the one that must be reached besides the date. */
  readonly sinceLivedMs: number;
  readonly untilLivedMs: number | null;
}

/** Longest reason, in characters. */
export const MAX_REASON = 1_000;

const time = { type: 'string', pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z$' } as const;
const milliseconds = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER } as const;
const isGuard = new Ajv({ strict: false, validateSchema: false }).compile<PointGuard & { readonly mac: string }>({
  type: 'object',
  required: [
    'format',
    'version',
    'point',
    'machine',
    'reason',
    'since',
    'until',
    'sinceLivedMs',
    'untilLivedMs',
    'mac',
  ],
  additionalProperties: false,
  properties: {
    format: { enum: GUARD_KINDS.map((kind) => `understudy-${kind}`) },
    version: { const: FORMAT_VERSION },
    point: { type: 'string' },
    machine: { type: 'string' },
    reason: { type: 'string' },
    since: time,
    until: { anyOf: [time, { type: 'null' }] },
    sinceLivedMs: milliseconds,
    untilLivedMs: { anyOf: [milliseconds, { type: 'null' }] },
    mac: { type: 'string' },
  },
});

/** The object key of a guard. */
export function guardKey(kind: GuardKind, { machineId, pointId }: GuardedPoint): string {
  return `${kind}s/${machineId}/${pointId}.json`;
}

/** Names the point of a guard; the same as a `ManifestRef`. */
export interface GuardedPoint {
  readonly machineId: MachineId;
  readonly pointId: PointId;
}

export function encodeGuard(guard: PointGuard, key: KeyObject): Buffer {
  return encodeJson(withMac(guard, key));
}

/** Checks shape, MAC, every byte, and that it is the guard of this name. @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT */
export function decodeGuard(
  stored: Buffer,
  key: KeyObject,
  about: { readonly kind: GuardKind; readonly point: GuardedPoint },
): PointGuard {
  const name = guardKey(about.kind, about.point);
  const value = parseStoredJson(stored, name);
  refuseOtherVersion(value, name);
  if (!isGuard(value)) throw corruptObject(name, `is not a whole ${about.kind}`);
  checkStoredJson(stored, value, key, name);
  const { mac: _, ...guard } = value;
  const isDated = guard.until !== null && guard.untilLivedMs !== null;
  const isTimeless = guard.until === null && guard.untilLivedMs === null;
  if (!(isDated || (isTimeless && about.kind === 'hold')) || Number.isNaN(Date.parse(guard.until ?? guard.since))) {
    throw corruptObject(name, 'has no date');
  }
  const { machineId, pointId } = about.point;
  if (guard.format !== `understudy-${about.kind}` || guard.point !== pointId || guard.machine !== machineId) {
    throw corruptObject(name, 'is about something else');
  }
  return guard;
}
