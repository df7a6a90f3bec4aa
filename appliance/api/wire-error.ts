// SPDX-License-Identifier: Apache-2.0
import { ERROR_TABLE, type ErrorCode } from '../core/error-codes.ts';
import { ApplianceError, toError } from '../core/errors.ts';

/** An error as JSON: in the service's answers and in `--json`. */
export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>>;
  /** What a command that ends with it exits with. */
  readonly exitCode: number;
}

/**
 * Anything thrown as an `ApplianceError`: itself, ABORTED for what an aborted signal threw, INTERNAL for the rest, whose
 * message is kept.
 */
export function asApplianceError(thrown: unknown, signal?: AbortSignal): ApplianceError {
  if (thrown instanceof ApplianceError) return thrown;
  const error = toError(thrown);
  if (signal?.aborted === true && (error.name === 'AbortError' || thrown === signal.reason)) {
    return new ApplianceError('ABORTED', 'interrupted', { cause: error });
  }
  return new ApplianceError('INTERNAL', error.message, { cause: error });
}

export function encodeError(thrown: unknown, signal?: AbortSignal): WireError {
  const error = asApplianceError(thrown, signal);
  return {
    code: error.code,
    message: error.message,
    hint: error.hint,
    details: plainDetails(error.details),
    exitCode: error.exitCode,
  };
}

/** The error that a peer sent; a code that this version does not know becomes INTERNAL, with the original in `details`. */
export function decodeError(value: unknown): ApplianceError {
  if (!isRecord(value) || typeof value['code'] !== 'string' || typeof value['message'] !== 'string') {
    return new ApplianceError('INTERNAL', 'the service sent an error that cannot be read', { details: { value } });
  }
  const { code, message, hint, details } = value;
  const known = Object.hasOwn(ERROR_TABLE, code);
  return new ApplianceError(known ? (code as ErrorCode) : 'INTERNAL', message, {
    ...(typeof hint === 'string' ? { hint } : {}),
    details: { ...(isRecord(details) ? details : {}), ...(known ? {} : { code }) },
  });
}

/** Details that JSON can hold: a bigint becomes text, what cannot be encoded is left out. */
function plainDetails(details: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const plain: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(details)) {
    const encoded = encodeDetail(value);
    if (encoded !== undefined) plain[name] = JSON.parse(encoded);
  }
  return plain;
}

function encodeDetail(value: unknown): string | undefined {
  try {
    return JSON.stringify(value, (_key, member: unknown) => (typeof member === 'bigint' ? String(member) : member));
  } catch (error) {
    // A cycle: the detail is for people, and the error itself matters more.
    return JSON.stringify(`(${toError(error).message})`);
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
