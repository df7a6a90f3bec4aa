// SPDX-License-Identifier: Apache-2.0
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';
import { ApplianceError } from '../../core/errors.ts';
import type { OperationName, OperationParams, OperationResult } from '../operations.ts';
import { OPERATION_SCHEMAS, paramsSchemaOf } from './operation-schemas.ts';
import type { TSchema } from './type.ts';

/** The parameters, checked. @throws ApplianceError BAD_ARGUMENT with every defect in `details.defects` */
export function checkParams<Name extends OperationName>(name: Name, params: unknown): OperationParams<Name> {
  const defects = defectsOf(OPERATION_SCHEMAS[name].params, params);
  if (defects.length > 0) {
    throw new ApplianceError('BAD_ARGUMENT', `${name}: ${defects.join('; ')}`, {
      details: { operation: name, defects },
      hint: 'The parameters of each operation stand in docs/cli.md.',
    });
  }
  return params as OperationParams<Name>;
}

/**
 * Any value against any schema of this folder: each defect in a few words, none for a value that is as the schema says.
 * Where something is not that, `whole` names it.
 */
export function defectsOf(schema: TSchema, value: unknown, whole = 'the parameters'): readonly string[] {
  const validate = validatorOf(schema);
  return validate(value) ? [] : (validate.errors ?? []).map((defect) => describeDefect(defect, whole));
}

/**
 * The result of an operation as JSON, checked: unlike a client, which must take members that it does not know, this refuses
 * them. For tests; nobody pays for it otherwise. @throws ApplianceError INTERNAL with every defect in `details.defects`
 */
export function checkResult<Name extends OperationName>(name: Name, result: unknown): OperationResult<Name> {
  const schema = closed(OPERATION_SCHEMAS[name].result);
  const value: unknown = JSON.parse(JSON.stringify(result));
  const defects = defectsOf(schema, value, 'the result');
  if (defects.length > 0) {
    throw new ApplianceError('INTERNAL', `the result of ${name} is not as its schema says: ${defects.join('; ')}`, {
      details: { operation: name, defects },
    });
  }
  return value as OperationResult<Name>;
}

/**
 * Parameters that came as text, in the path and in the query: where the operation wants a number or a truth value, and the
 * text is one, it becomes that. Everything else stays as it is, for `checkParams` to judge.
 */
export function paramsFromText(
  name: OperationName,
  texts: Readonly<Record<string, string | readonly string[] | undefined>>,
): Readonly<Record<string, unknown>> {
  const { properties } = paramsSchemaOf(name);
  const read = Object.entries(texts)
    .filter(([, value]) => value !== undefined)
    .map(([member, value]) => [
      member,
      Object.hasOwn(properties, member) ? fromText(properties[member], value) : value,
    ]);
  return Object.fromEntries(read) as Readonly<Record<string, unknown>>;
}

const INTEGER = /^-?(0|[1-9][0-9]{0,15})$/;
const NUMBER = /^-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?$/;

function fromText(schema: TSchema | undefined, value: unknown): unknown {
  const { type, items } = (schema ?? {}) as { readonly type?: string; readonly items?: TSchema };
  if (type === 'array') return (Array.isArray(value) ? value : [value]).map((one: unknown) => fromText(items, one));
  if (typeof value !== 'string') return value;
  if (type === 'boolean' && (value === 'true' || value === 'false')) return value === 'true';
  if ((type === 'integer' && INTEGER.test(value)) || (type === 'number' && NUMBER.test(value))) return Number(value);
  return value;
}

/** ISO 8601 as we write it, with any number of digits of a second. */
const DATE_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/;

/**
 * Compiled when first used, and not compared with the schema of schemas, which takes longer than all the rest (a test does).
 * By the schema itself.
 */
const validators = new WeakMap<object, ValidateFunction>();

function validatorOf(schema: TSchema): ValidateFunction {
  const known = validators.get(schema);
  if (known !== undefined) return known;
  const ajv = new Ajv({ allErrors: true, strict: true, validateSchema: false, formats: { 'date-time': DATE_TIME } });
  const compiled = ajv.compile(schema);
  validators.set(schema, compiled);
  return compiled;
}

const closedSchemas = new WeakMap<object, TSchema>();

/** The schema, in which no object has members without a name. */
function closed(schema: TSchema): TSchema {
  const known = closedSchemas.get(schema);
  if (known !== undefined) return known;
  const made = closeAll(schema) as TSchema;
  closedSchemas.set(schema, made);
  return made;
}

function closeAll(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closeAll);
  if (typeof value !== 'object' || value === null) return value;
  const copy = Object.fromEntries(Object.entries(value).map(([name, member]) => [name, closeAll(member)]));
  const isClosed = copy['type'] === 'object' && typeof copy['properties'] === 'object';
  return isClosed ? { ...copy, additionalProperties: false } : copy;
}

function describeDefect(defect: ErrorObject, whole: string): string {
  const where = defect.instancePath === '' ? whole : defect.instancePath.slice(1);
  const params = defect.params as Readonly<Record<string, unknown>>;
  const within = defect.instancePath === '' ? '' : ` in ${where}`;
  if (defect.keyword === 'additionalProperties') return `${String(params['additionalProperty'])} is not known${within}`;
  if (defect.keyword === 'required') return `${String(params['missingProperty'])} is missing${within}`;
  if (defect.keyword === 'enum') return `${where} must be one of ${String(params['allowedValues'])}`;
  if (defect.keyword === 'minLength') return `${where} is empty`;
  return `${where} ${defect.message ?? 'is not valid'}`;
}
