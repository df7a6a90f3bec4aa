// SPDX-License-Identifier: Apache-2.0
import { setTimeout as sleep } from 'node:timers/promises';
import { type Clock, systemClock } from '../../core/clock.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import type { Connection } from './connection.ts';
import type { Negotiated } from './negotiate.ts';
import type { NbdReconnectOptions } from './options.ts';

export interface ReconnectTask {
  readonly open: (timeoutMs: number) => Promise<Connection>;
  /** What the first connection agreed on. */
  readonly expected: Negotiated;
  readonly limits: NbdReconnectOptions;
  readonly signal: AbortSignal;
}

/**
 * Waits, bounded, for a server that was lost, and connects to it again.
 *
 * @throws NBD_CONNECTION_LOST when it did not come back in time; NBD_EXPORT_CHANGED when it came back with another
 *   export under the name; ABORTED; and what a handshake throws that waiting does not mend
 */
export async function reconnect({ open, expected, limits, signal }: ReconnectTask): Promise<Connection> {
  const clock: Clock = systemClock;
  const untilMs = clock.elapsedMs() + limits.totalMs;
  let delayMs = limits.delayMs;
  for (;;) {
    try {
      const connection = await open(Math.max(1, untilMs - clock.elapsedMs()));
      const difference = differenceOf(expected, connection.negotiated);
      if (difference === undefined) return connection;
      await connection.retire();
      throw new ApplianceError('NBD_EXPORT_CHANGED', `after reconnecting, the export has another ${difference}`, {
        details: { exportName: expected.exportName, difference },
      });
    } catch (error) {
      if (hasCode(error, 'NBD_META_CONTEXT_MISSING')) {
        throw new ApplianceError('NBD_EXPORT_CHANGED', error.message, { cause: error, details: error.details });
      }
      // An export may be missing for a moment while its server starts.
      if (!hasCode(error, 'NBD_CONNECT_FAILED', 'NBD_CONNECTION_LOST', 'TIMED_OUT', 'NBD_EXPORT_UNKNOWN')) throw error;
      if (clock.elapsedMs() + delayMs >= untilMs) throw notBackError(limits, error);
    }
    await pause(delayMs, signal);
    delayMs = Math.min(2 * delayMs, limits.maximumDelayMs);
  }
}

/** What two negotiations of one export disagree on: anything that would make one disk out of two. */
export function differenceOf(expected: Negotiated, actual: Negotiated): string | undefined {
  if (actual.sizeBytes !== expected.sizeBytes) return 'size';
  if (actual.transmissionFlags !== expected.transmissionFlags) return 'set of transmission flags';
  if (actual.limits.minimumBytes !== expected.limits.minimumBytes) return 'minimum block size';
  if (actual.limits.preferredBytes !== expected.limits.preferredBytes) return 'preferred block size';
  if (actual.limits.maximumBytes !== expected.limits.maximumBytes) return 'maximum block size';
  if (namesOf(actual) !== namesOf(expected)) return 'set of meta contexts';
  return undefined;
}

function namesOf(negotiated: Negotiated): string {
  return JSON.stringify([...negotiated.contexts.values()].sort());
}

async function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(delayMs, undefined, { signal });
  } catch (cause) {
    throw new ApplianceError('ABORTED', 'reconnecting was interrupted', { cause });
  }
}

function notBackError(limits: NbdReconnectOptions, cause: unknown): ApplianceError {
  return new ApplianceError('NBD_CONNECTION_LOST', `the NBD server did not come back within ${limits.totalMs} ms`, {
    cause,
  });
}
