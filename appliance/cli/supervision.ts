// SPDX-License-Identifier: Apache-2.0
import type { Logger } from 'pino';
import { raiseFileLimit } from '../core/libc.ts';
import { supervisorOf } from '../core/supervisor.ts';
import { feedWatchdog } from './watchdog.ts';

/** Below so many files, a service with many machines and exports runs out of them. */
const MIN_OPEN_FILES = 4096;

export interface SupervisionOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly logger: Logger;
  /** In words, for whoever asks the supervisor. */
  readonly status: string;
  readonly isWorking: () => Promise<void>;
}

/**
 * Tells whatever started the service that it is ready, that it is alive, and, when it is disposed, that it stops. Without a
 * supervisor nothing of that happens.
 */
export function supervise({ env, logger, status, isWorking }: SupervisionOptions): Disposable {
  const supervisor = supervisorOf(env, process.pid);
  if (supervisor === undefined) return { [Symbol.dispose]: () => undefined };
  const onTrouble = (error: Error): void => logger.error({ err: error }, 'no sign of life for the supervisor');
  const feeding = feedWatchdog({ supervisor, isWorking, onTrouble });
  if (!supervisor.tell('ready', status)) logger.warn('the supervisor cannot be told that the service is ready');
  return {
    [Symbol.dispose]: () => {
      feeding[Symbol.dispose]();
      supervisor.tell('stopping', 'stopping');
    },
  };
}

/** As many open files as the system lets this process have; says so when that is few. */
export function raiseOpenFiles(logger: Logger): void {
  const limit = raiseFileLimit();
  if (limit >= MIN_OPEN_FILES) return;
  logger.warn(
    { limit, wanted: MIN_OPEN_FILES },
    'few files may be open: machines and exports may fail when there are many',
  );
}
