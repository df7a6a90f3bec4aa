// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { ApplianceError } from './errors.ts';

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** Names a recovery point: 16 lower-case hexadecimal digits. */
export type PointId = Branded<'PointId'>;
/** Names a pack: 32 lower-case hexadecimal digits (128 random bits). */
export type PackId = Branded<'PackId'>;
/** Names a machine: the UUID that the hypervisor reports, or one derived from an NBD source's name; lower case. */
export type MachineId = Branded<'MachineId'>;

const POINT_ID = /^[0-9a-f]{16}$/;
const PACK_ID = /^[0-9a-f]{32}$/;
const MACHINE_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

function parse<Id extends string>(text: string, pattern: RegExp, what: string): Id {
  if (!pattern.test(text)) {
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is not a ${what} id`);
  }
  return text as Id;
}

export function parsePointId(text: string): PointId {
  return parse(text, POINT_ID, 'recovery point');
}

export function parsePackId(text: string): PackId {
  return parse(text, PACK_ID, 'pack');
}

export function parseMachineId(text: string): MachineId {
  return parse(text, MACHINE_ID, 'machine');
}

export function isPackId(text: string): text is PackId {
  return PACK_ID.test(text);
}

export function newPointId(): PointId {
  return randomBytes(8).toString('hex') as PointId;
}

export function newPackId(): PackId {
  return randomBytes(16).toString('hex') as PackId;
}
