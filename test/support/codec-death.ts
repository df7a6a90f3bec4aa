// SPDX-License-Identifier: Apache-2.0
import { isMainThread, Worker } from 'node:worker_threads';

/*
 * Loaded into a process with `--import`: a codec thread of it dies. CODEC_DEATH says when: `at-work`, with the first job that
 * it gets, or `at-signal`, with SIGUSR2.
 */

const when = process.env['CODEC_DEATH'];
const { prototype } = Worker;
const send = Object.getOwnPropertyDescriptor(prototype, 'postMessage')?.value as (this: Worker, work: unknown) => void;
const known = new Set<Worker>();
/** Not a list of jobs: the thread dies of it. `terminate` in the middle of a native call would end the whole process. */
export const POISON = 42;

if (isMainThread) {
  Object.defineProperty(prototype, 'postMessage', {
    value(this: Worker, work: unknown): void {
      known.add(this);
      if (when === 'at-work') send.call(this, POISON);
      send.call(this, work);
    },
  });
  if (when === 'at-signal') {
    process.on('SIGUSR2', () => {
      for (const worker of known) send.call(worker, POISON);
    });
  }
}
