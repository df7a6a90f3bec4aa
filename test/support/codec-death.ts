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

if (isMainThread) {
  Object.defineProperty(prototype, 'postMessage', {
    value(this: Worker, work: unknown): void {
      known.add(this);
      send.call(this, work);
      if (when === 'at-work') void this.terminate();
    },
  });
  if (when === 'at-signal') {
    process.on('SIGUSR2', () => {
      for (const worker of known) void worker.terminate();
    });
  }
}
