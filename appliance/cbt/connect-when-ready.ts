// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../core/clock.ts';
import { hasCode } from '../core/errors.ts';
import type { NbdDevice } from '../nbd/client/nbd-device.ts';

/** The server was told to listen a moment ago; it may need this long to do so. */
const READY_TIMEOUT_MS = 5000;
const RETRY_MS = 25;

/** Connects, again while nobody listens yet. Errors are the last attempt's. */
export async function connectWhenReady(connect: () => Promise<NbdDevice>, signal: AbortSignal): Promise<NbdDevice> {
  const deadline = systemClock.elapsedMs() + READY_TIMEOUT_MS;
  for (;;) {
    try {
      return await connect();
    } catch (error) {
      if (!hasCode(error, 'NBD_CONNECT_FAILED') || signal.aborted || systemClock.elapsedMs() > deadline) throw error;
      await delay(RETRY_MS);
    }
  }
}
