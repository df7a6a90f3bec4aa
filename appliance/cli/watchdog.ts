// SPDX-License-Identifier: Apache-2.0
import { toError } from '../core/errors.ts';
import type { Supervisor } from '../core/supervisor.ts';

/** Signs of life within the time that the supervisor waits: one that comes late, on a busy machine, ends nothing. */
const SIGNS_PER_PERIOD = 3;

export interface WatchdogOptions {
  readonly supervisor: Supervisor;
  /** Settles when every thread has answered; rejects when one is gone. */
  readonly isWorking: () => Promise<void>;
  /** Told once when a sign of life is withheld. */
  readonly onTrouble: (error: Error) => void;
}

/**
 * Gives the supervisor signs of life, until it is disposed, for as long as the process works: this timer runs on the main loop, and
 * each sign waits for an answer of the threads. While an answer is awaited no other is asked for.
 */
export function feedWatchdog({ supervisor, isWorking, onTrouble }: WatchdogOptions): Disposable {
  const { watchdogMs } = supervisor;
  if (watchdogMs === undefined) return { [Symbol.dispose]: () => undefined };
  let isAsking = false;
  let isTold = false;
  const give = async (): Promise<void> => {
    if (isAsking) return;
    isAsking = true;
    try {
      await isWorking();
      supervisor.tell('alive');
      isTold = false;
    } catch (error) {
      if (!isTold) onTrouble(toError(error));
      isTold = true;
    } finally {
      isAsking = false;
    }
  };
  void give();
  const timer = setInterval(() => void give(), watchdogMs / SIGNS_PER_PERIOD);
  timer.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
