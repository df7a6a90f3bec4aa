// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { RECORD_INTERVAL_MS } from '../repository/lived-time.ts';
import type { Repository } from '../repository/repository.ts';

/**
 * Has the repository write down how long the appliance has lived, now and every ten minutes until disposed, as long as the
 * date of a hold or lock waits for it. A record that cannot be written makes such a date come later, and is said once.
 */
export async function keepTime(repository: Repository, onNotice: (sentence: string) => void): Promise<AsyncDisposable> {
  let isSaid = false;
  let running: Promise<void> = Promise.resolve();
  const record = async (): Promise<void> => {
    try {
      await repository.guards.recordTime();
      isSaid = false;
    } catch (error) {
      if (!(error instanceof ApplianceError)) throw error;
      if (!isSaid) onNotice(`the time that holds and locks wait for could not be recorded: ${error.message}`);
      isSaid = true;
    }
  };
  await record();
  const timer = setInterval(() => {
    running = record();
  }, RECORD_INTERVAL_MS);
  timer.unref();
  return {
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      await running;
    },
  };
}
