// SPDX-License-Identifier: Apache-2.0
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';
import { ApplianceError } from '../core/errors.ts';
import type { Appliance, OperationName } from './operations.ts';

/** What an operation takes and gives, by its name. */
export type OperationParams<Name extends OperationName> = Parameters<Appliance[Name]>[0];
export type OperationResult<Name extends OperationName> = Awaited<ReturnType<Appliance[Name]>>;

/** Longest string that any parameter may hold; paths and NBD URIs are the longest. */
export const MAX_PARAMETER_CHARACTERS = 4096;

type PropertySchema<Value> = [Value] extends [boolean]
  ? { readonly type: 'boolean' }
  : string extends Value
    ? { readonly type: 'string'; readonly minLength: 1; readonly maxLength: number }
    : number extends Value
      ? { readonly type: 'integer'; readonly minimum: number; readonly maximum: number }
      : { readonly enum: readonly Value[] };

type RequiredKeys<T> = { [K in keyof T]-?: undefined extends T[K] ? never : K }[keyof T];

/** A JSON schema that names exactly the members of the parameter type; the compiler compares the two. */
interface ParamsSchema<Params> {
  readonly type: 'object';
  readonly additionalProperties: false;
  readonly required: readonly RequiredKeys<Params>[];
  readonly properties: { readonly [K in keyof Params]-?: PropertySchema<Exclude<Params[K], undefined>> };
}

type OperationSchemas = { readonly [Name in OperationName]: ParamsSchema<OperationParams<Name>> };

const text = { type: 'string', minLength: 1, maxLength: MAX_PARAMETER_CHARACTERS } as const;
/** Bytes; QEMU's own limits are below the largest. */
const bytes = { type: 'integer', minimum: 1, maximum: 2 ** 50 } as const;
const flag = { type: 'boolean' } as const;
const object = { type: 'object', additionalProperties: false } as const;
/** MiB of memory: up to 16 TiB. */
const mebibytes = { type: 'integer', minimum: 1, maximum: 2 ** 24 } as const;
/** How many points a part of a retention rule keeps. */
const keep = { type: 'integer', minimum: 1, maximum: 1_000_000 } as const;
const retention = {
  machine: text,
  all: flag,
  keepLast: keep,
  keepHourly: keep,
  keepDaily: keep,
  keepWeekly: keep,
  keepMonthly: keep,
  keepYearly: keep,
  keepWithin: text,
  timeZone: text,
} as const;
const none = { ...object, required: [], properties: {} } as const;
const named = { ...object, required: ['name'], properties: { name: text } } as const;

/** One schema per operation; `docs/cli.md`, "The service". Unknown members are refused. */
export const OPERATION_SCHEMAS: OperationSchemas = {
  status: none,
  machineList: { ...object, required: [], properties: { connect: text } },
  machineShow: { ...object, required: ['name'], properties: { name: text, connect: text } },
  backup: {
    ...object,
    required: ['target'],
    properties: { target: text, name: text, fullScan: flag, connect: text },
  },
  protect: {
    ...object,
    required: ['target'],
    properties: {
      target: text,
      interval: text,
      durability: { enum: ['group', 'write'] },
      window: text,
      windowSize: text,
      connect: text,
    },
  },
  unprotect: { ...object, required: ['name'], properties: { name: text } },
  protection: none,
  protectionPause: { ...object, required: ['name'], properties: { name: text, for: text } },
  protectionResume: { ...object, required: ['name'], properties: { name: text } },
  points: { ...object, required: [], properties: { machine: text } },
  timeline: { ...object, required: ['machine'], properties: { machine: text, from: text, to: text } },
  bookmark: { ...object, required: ['machine', 'name'], properties: { machine: text, name: text } },
  writes: {
    ...object,
    required: ['machine'],
    properties: { machine: text, around: text, within: text, disk: text, offset: text },
  },
  pointShow: { ...object, required: ['point'], properties: { point: text } },
  boot: {
    ...object,
    required: ['point'],
    properties: { point: text, as: text, keepNetwork: flag, keepIdentity: flag, connect: text },
  },
  booted: none,
  rewind: { ...object, required: ['point'], properties: { point: text } },
  stop: { ...object, required: ['name'], properties: { name: text, discard: flag } },
  migrate: {
    ...object,
    required: ['name'],
    properties: {
      name: text,
      directory: text,
      pool: text,
      format: { enum: ['qcow2', 'raw'] },
      bandwidth: bytes,
      as: text,
      autostart: flag,
      verify: flag,
    },
  },
  export: {
    ...object,
    required: ['point'],
    properties: { point: text, disk: text, socket: text, listen: text, writable: flag },
  },
  unexport: { ...object, required: ['id'], properties: { id: text } },
  restore: {
    ...object,
    required: ['point'],
    properties: {
      point: text,
      disk: text,
      to: text,
      format: { enum: ['raw', 'qcow2', 'vmdk'] },
      as: text,
      directory: text,
      inPlace: flag,
      connect: text,
    },
  },
  standbyCreate: {
    ...object,
    required: ['name', 'on'],
    properties: { name: text, on: text, network: text, memory: mebibytes, as: text, connect: text },
  },
  standbyList: none,
  standbyRemove: named,
  standbyTest: { ...object, required: ['name'], properties: { name: text, expect: text } },
  failover: { ...object, required: ['name'], properties: { name: text, at: text, force: flag } },
  failoverUndo: named,
  failback: { ...object, required: ['name'], properties: { name: text, force: flag } },
  check: { ...object, required: [], properties: { readData: flag } },
  catalogRebuild: none,
  delete: { ...object, required: ['point'], properties: { point: text, now: flag } },
  undelete: { ...object, required: ['point'], properties: { point: text } },
  hold: { ...object, required: ['point', 'reason'], properties: { point: text, reason: text, until: text } },
  release: { ...object, required: ['point'], properties: { point: text } },
  lock: { ...object, required: ['point', 'until'], properties: { point: text, until: text } },
  retentionPreview: { ...object, required: [], properties: retention },
  retentionApply: { ...object, required: [], properties: { ...retention, plan: text } },
  gc: { ...object, required: [], properties: { now: flag } },
};

/** The parameters, checked. @throws BAD_ARGUMENT with every defect in `details.defects` */
export function checkParams<Name extends OperationName>(name: Name, params: unknown): OperationParams<Name> {
  const validate = validatorOf(name);
  if (!validate(params)) {
    const defects = (validate.errors ?? []).map(describeDefect);
    throw new ApplianceError('BAD_ARGUMENT', `${name}: ${defects.join('; ')}`, {
      details: { operation: name, defects },
      hint: 'The parameters of each operation stand in docs/cli.md.',
    });
  }
  return params as OperationParams<Name>;
}

/** Compiled when first used, and not compared with the schema of schemas, which takes longer than all the rest (a test does). */
const validators = new Map<OperationName, ValidateFunction>();

function validatorOf(name: OperationName): ValidateFunction {
  const known = validators.get(name);
  if (known !== undefined) return known;
  const compiled = new Ajv({ allErrors: true, strict: true, validateSchema: false }).compile(OPERATION_SCHEMAS[name]);
  validators.set(name, compiled);
  return compiled;
}

function describeDefect(defect: ErrorObject): string {
  const where = defect.instancePath === '' ? 'the parameters' : defect.instancePath.slice(1);
  const params = defect.params as Readonly<Record<string, unknown>>;
  if (defect.keyword === 'additionalProperties') return `${String(params['additionalProperty'])} is not known`;
  if (defect.keyword === 'required') return `${String(params['missingProperty'])} is missing`;
  if (defect.keyword === 'enum') return `${where} must be one of ${String(params['allowedValues'])}`;
  if (defect.keyword === 'minLength') return `${where} is empty`;
  return `${where} ${defect.message ?? 'is not valid'}`;
}
