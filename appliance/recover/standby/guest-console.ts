// SPDX-License-Identifier: Apache-2.0
import { open } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../core/clock.ts';
import { ApplianceError } from '../../core/errors.ts';
import { storageError } from '../../core/file-system.ts';

export interface ConsoleWatch {
  /** The file that QEMU adds the guest's serial console to. */
  readonly path: string;
  readonly pattern: RegExp;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

const POLL_MS = 50;
const TIMEOUT_MS = 180_000;
const PIECE_BYTES: number = 64 * 1024;
/** A pattern is looked for in so much of the end. */
const KEPT_LENGTH: number = 64 * 1024;
const SAID_LENGTH = 500;
const LONGEST_PATTERN = 500;

/** A regular expression, over more than one line where it says so. @throws ApplianceError BAD_ARGUMENT */
export function parsePattern(text: string): RegExp {
  try {
    if (text !== '' && text.length <= LONGEST_PATTERN) return new RegExp(text, 'm');
  } catch (cause) {
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no regular expression`, { cause });
  }
  throw new ApplianceError('BAD_ARGUMENT', `a pattern has 1 to ${LONGEST_PATTERN} characters`);
}

/**
 * Waits until the guest's console shows a pattern, and settles with the clock's elapsed time then.
 * @throws ApplianceError TIMED_OUT with the end of what it did show, ABORTED, IO_FAILED
 */
export async function untilConsoleShows({ path, pattern, clock, signal }: ConsoleWatch): Promise<number> {
  const startedMs = clock.elapsedMs();
  const piece = Buffer.alloc(PIECE_BYTES);
  let shown = '';
  try {
    await using file = await open(path, 'r');
    for (;;) {
      if (signal.aborted) throw new ApplianceError('ABORTED', 'the wait for the console was interrupted');
      const { bytesRead } = await file.read(piece, 0, piece.length, null);
      shown = (shown + piece.toString('latin1', 0, bytesRead).replaceAll('\r', '')).slice(-KEPT_LENGTH);
      if (bytesRead > 0 && pattern.test(shown)) return clock.elapsedMs();
      if (clock.elapsedMs() - startedMs > TIMEOUT_MS) break;
      if (bytesRead === 0) await delay(POLL_MS);
    }
  } catch (error) {
    throw error instanceof ApplianceError ? error : storageError(error, 'read', path);
  }
  throw new ApplianceError('TIMED_OUT', `the console did not show ${pattern} within ${TIMEOUT_MS / 1000} s`, {
    details: { end: shown.slice(-SAID_LENGTH) },
    hint: `It ended with ${JSON.stringify(shown.slice(-SAID_LENGTH))}.`,
  });
}
