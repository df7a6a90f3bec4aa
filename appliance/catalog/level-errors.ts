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

/** The same for an iteration. */
export async function* guardEach<T>(items: AsyncIterable<T>): AsyncGenerator<T, void, void> {
  try {
    yield* items;
  } catch (error) {
    throw levelError(error);
  }
}

/** An error of an operation on an open database. */
export function levelError(error: unknown): ApplianceError {
  if (error instanceof ApplianceError) return error;
  const text = textOf(error);
  if (/No space left|ENOSPC|quota exceeded/i.test(text)) {
    return new ApplianceError('NO_SPACE', 'no space left for the catalog', { cause: error });
  }
  if (systemErrorCode(error) === 'LEVEL_DATABASE_NOT_OPEN') {
    return new ApplianceError('CLOSED', 'the catalog was closed', { cause: error });
  }
  return catalogDamaged(text, error);
}

/** An error of opening: LOCKED when another process has it, else as `levelError`. */
export function openError(error: unknown, directory: string): ApplianceError {
  const cause = error instanceof Error ? error.cause : undefined;
  if (systemErrorCode(cause) === 'LEVEL_LOCKED') {
    return new ApplianceError('LOCKED', `the catalog in ${directory} is in use by another process`, { cause: error });
  }
  return levelError(error);
}

function textOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : '';
  return `${toError(error).message}${cause}`;
}
