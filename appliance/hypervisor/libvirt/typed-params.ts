// SPDX-License-Identifier: Apache-2.0
import { bytesAt, type Handle, readPointer, stringAt } from './library.ts';
import type { TypedValue } from './protocol.ts';

/** `struct _virTypedParameter` (libvirt/libvirt-common.h): `char field[80]; int type; union value` on 64-bit machines. */
const FIELD_LENGTH = 80;
const TYPE_OFFSET = 80;
const VALUE_OFFSET = 88;
const PARAM_LENGTH = 96;
/** More than libvirt ever returns for one domain job (VIR_DOMAIN_JOB_STATS… has about 40). */
const MAX_PARAMS = 4096;

/** A parameter to pass in; virTypedParameterType by its name. */
export interface NumberParam {
  readonly field: string;
  readonly type: 'uint' | 'ullong';
  readonly value: number;
}

/** An array of typed parameters for a call; null for none. */
export function writeTypedParams(params: readonly NumberParam[]): {
  readonly bytes: Buffer | null;
  readonly count: number;
} {
  if (params.length === 0) return { bytes: null, count: 0 };
  const bytes = Buffer.alloc(params.length * PARAM_LENGTH);
  for (const [index, { field, type, value }] of params.entries()) {
    const at = index * PARAM_LENGTH;
    bytes.write(field, at, FIELD_LENGTH - 1, 'latin1');
    bytes.writeInt32LE(type === 'uint' ? 2 : 4, at + TYPE_OFFSET);
    if (type === 'uint') bytes.writeUInt32LE(value, at + VALUE_OFFSET);
    else bytes.writeBigUInt64LE(BigInt(value), at + VALUE_OFFSET);
  }
  return { bytes, count: params.length };
}

/** Copies an array of typed parameters; entries of a type that is not known are left out. */
export function readTypedParams(params: Handle, count: number): Record<string, TypedValue> {
  const result: Record<string, TypedValue> = {};
  if (params === 0) return result;
  for (let index = 0; index < Math.min(count, MAX_PARAMS); index++) {
    const param = bytesAt(params + index * PARAM_LENGTH, PARAM_LENGTH);
    const end = param.indexOf(0);
    const field = param.toString('utf8', 0, end < 0 ? FIELD_LENGTH : Math.min(end, FIELD_LENGTH));
    const value = readValue(param);
    if (value !== undefined) result[field] = value;
  }
  return result;
}

/** virTypedParameterType. */
function readValue(param: Buffer): TypedValue | undefined {
  switch (param.readInt32LE(TYPE_OFFSET)) {
    case 1:
      return param.readInt32LE(VALUE_OFFSET);
    case 2:
      return param.readUInt32LE(VALUE_OFFSET);
    case 3:
      return narrow(param.readBigInt64LE(VALUE_OFFSET));
    case 4:
      return narrow(param.readBigUInt64LE(VALUE_OFFSET));
    case 5:
      return param.readDoubleLE(VALUE_OFFSET);
    case 6:
      return param.readUInt8(VALUE_OFFSET) !== 0;
    case 7:
      return stringAt(readPointer(param, VALUE_OFFSET)) ?? '';
    default:
      return undefined;
  }
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
