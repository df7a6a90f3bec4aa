// SPDX-License-Identifier: Apache-2.0
import { ERROR_TABLE, type ErrorCode, EXIT_CODES } from './error-codes.ts';

/** Whether the same call may succeed later: by itself, after somebody repaired something, or never. */
export type RetryClass = 'never' | 'transient' | 'after-repair';

/** What an `ApplianceError` may carry besides its code and message. */
export interface ErrorContext {
  readonly cause?: unknown;
  /** Plain values for logs and `--json`; never secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
  /** What the operator can do now; overrides the hint of the code's table entry. */
  readonly hint?: string;
}

/**
 * An operating error: something outside our code did not do what was needed. Callers decide by `code`, never by
 * message. Every code stands in `error-codes.ts` and in `docs/errors.md`.
 */
export class ApplianceError extends Error {
  override readonly name = 'ApplianceError';
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;
  readonly hint: string;

  constructor(code: ErrorCode, message: string, context: ErrorContext = {}) {
    super(message, context.cause === undefined ? undefined : { cause: context.cause });
    this.code = code;
    this.details = context.details ?? {};
    this.hint = context.hint ?? ERROR_TABLE[code].hint;
  }

  get retry(): RetryClass {
    return ERROR_TABLE[this.code].retry;
  }

  /** The process exit code of a command that ends with this error (`docs/errors.md`). */
  get exitCode(): number {
    return EXIT_CODES[ERROR_TABLE[this.code].exit];
  }
}

/** True for an `ApplianceError` with one of the given codes. */
export function hasCode(error: unknown, ...codes: readonly ErrorCode[]): error is ApplianceError {
  return error instanceof ApplianceError && codes.includes(error.code);
}

/** Any thrown value as an `Error`, without losing it. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(`a non-error was thrown: ${String(thrown)}`, { cause: thrown });
}

/** The `code` of a Node system error (`ENOENT`, `ENOSPC`, …), or undefined. */
export function systemErrorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
