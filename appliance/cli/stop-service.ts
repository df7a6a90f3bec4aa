// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { askToStop, findService } from '../api/client/find-service.ts';
import { pause } from '../api/connect-appliance.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';

/** More than the service gives its operations, and then itself, to end. */
const STOP_LIMIT_MS = 120_000;
const POLL_MS = 50;

export interface StopServiceOptions {
  readonly stateDirectory: string;
  readonly signal: AbortSignal;
  readonly clock: Clock;
}

/**
 * Asks the service of a state directory to end, and waits until it has: the directory is free then. Settles with its process,
 * or undefined when none runs.
 * @throws ApplianceError TIMED_OUT, SERVICE_UNREACHABLE, ABORTED (it ends all the same)
 */
export async function stopService({ stateDirectory, signal, clock }: StopServiceOptions): Promise<number | undefined> {
  const health = await findService(stateDirectory);
  if (health === undefined) return undefined;
  await askToStop(stateDirectory);
  const giveUpMs = clock.elapsedMs() + STOP_LIMIT_MS;
  while (!(await hasEnded(stateDirectory, health.pid))) {
    if (clock.elapsedMs() >= giveUpMs) {
      throw new ApplianceError('TIMED_OUT', `the service (process ${health.pid}) did not end in time`, {
        details: { pid: health.pid, stateDirectory },
        hint: 'Look at its log. A second SIGTERM ends it at once, which is as safe as a power failure.',
      });
    }
    await pause(POLL_MS, signal);
  }
  return health.pid;
}

/** The lock goes last; another process may have it next. */
async function hasEnded(stateDirectory: string, pid: number): Promise<boolean> {
  try {
    const lock = await FileLock.acquire(join(stateDirectory, 'lock'));
    await lock.release();
    return true;
  } catch (error) {
    if (!hasCode(error, 'LOCKED')) throw error;
    return error.details['pid'] !== undefined && error.details['pid'] !== pid;
  }
}
