// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, systemErrorCode, toError } from '../core/errors.ts';
import { catalogDamaged } from './records.ts';

/** Settles as the operation does, with LevelDB's errors turned into CATALOG_DAMAGED, NO_SPACE or IO_FAILED. */
export async function guard<T>(operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw levelError(error);
  }
}

/** The same for a call that answers at once. */
export function guardSync<T>(operation: () => T): T {
  try {
    return operation();
  } catch (error) {
    throw levelError(error);
  }
}

/** The same for an iteration, which `start` begins. */
export async function* guardEach<T>(start: () => AsyncIterable<T>): AsyncGenerator<T, void, void> {
  try {
    yield* start();
  } catch (error) {
    throw levelError(error);
  }
}

/** An error of an operation on an open database. */
export function levelError(error: unknown): ApplianceError {
  if (error instanceof ApplianceError) return error;
  if (systemErrorCode(error) === 'LEVEL_DATABASE_NOT_OPEN') {
    return new ApplianceError('CLOSED', 'the catalog was closed', { cause: error });
  }
  return causedBy(error);
}

/** An error of opening: LOCKED when another process has it, else by its cause. */
export function openError(error: unknown, directory: string): ApplianceError {
  if (error instanceof ApplianceError) return error;
  const cause = error instanceof Error ? error.cause : undefined;
  if (systemErrorCode(cause) === 'LEVEL_LOCKED') {
    return new ApplianceError('LOCKED', `the catalog in ${directory} is in use by another process`, { cause: error });
  }
  return causedBy(error);
}

function causedBy(error: unknown): ApplianceError {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  const text = toError(cause).message;
  if (/No space left|quota exceeded/i.test(text)) {
    return new ApplianceError('NO_SPACE', 'no space left for the catalog', { cause: error });
  }
  // A file that is missing or too short (LevelDB says EINVAL of a read beyond the end of a table) is damage; one that
  // cannot be read or written is the device's or the permissions' fault.
  if (systemErrorCode(cause) === 'LEVEL_IO_ERROR' && !/No such file|Invalid argument/i.test(text)) {
    return new ApplianceError('IO_FAILED', `the catalog cannot be read or written: ${text}`, { cause: error });
  }
  return catalogDamaged(text, error);
}
