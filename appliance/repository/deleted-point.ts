// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import { Ajv } from 'ajv';
import type { MachineId, PointId } from '../core/ids.ts';
import { checkStoredJson, corruptObject, encodeJson, parseStoredJson, withMac } from './authenticated-json.ts';
import { FORMAT_VERSION } from './format.ts';
import { pointSchema, type RecoveryPoint, refuseOtherVersion } from './manifest.ts';

/** A point that was deleted and can be brought back until its grace period is over. */
export interface DeletedPoint {
  readonly format: 'understudy-deleted-point';
  readonly version: number;
  /** ISO 8601, UTC. */
  readonly deletedAt: string;
  /** Lived time at its deletion, which its grace period counts from (`LivedTime`); absent where that could not be written down. */
  readonly deletedLivedMs?: number;
  readonly point: RecoveryPoint;
}

const isDeletedPoint = new Ajv({ strict: false, validateSchema: false }).compile<
  DeletedPoint & { readonly mac: string }
>({
  type: 'object',
  required: ['format', 'version', 'deletedAt', 'point', 'mac'],
  additionalProperties: false,
  properties: {
    format: { const: 'understudy-deleted-point' },
    version: { const: FORMAT_VERSION },
    deletedAt: { type: 'string', pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z$' },
    deletedLivedMs: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
    point: pointSchema,
    mac: { type: 'string' },
  },
});

/** The object key of a deleted point. */
export function deletedPointKey(machine: MachineId, point: PointId): string {
  return `deleted/${machine}/${point}.json`;
}

export function encodeDeletedPoint(
  point: RecoveryPoint,
  { deletedAt, deletedLivedMs }: Pick<DeletedPoint, 'deletedAt' | 'deletedLivedMs'>,
  key: KeyObject,
): Buffer {
  const deleted: DeletedPoint = {
    format: 'understudy-deleted-point',
    version: FORMAT_VERSION,
    deletedAt,
    ...(deletedLivedMs === undefined ? {} : { deletedLivedMs }),
    point,
  };
  return encodeJson(withMac(deleted, key));
}

/** Checks shape, MAC and every byte. @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT */
export function decodeDeletedPoint(stored: Buffer, key: KeyObject, name: string): DeletedPoint {
  const value = parseStoredJson(stored, name);
  refuseOtherVersion(value, name);
  if (!isDeletedPoint(value) || Number.isNaN(Date.parse(value.deletedAt))) {
    throw corruptObject(name, 'is not a whole manifest');
  }
  checkStoredJson(stored, value, key, name);
  const { mac: _, ...deleted } = value;
  return deleted;
}
