// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';

export interface Pipeline<T> {
  readonly items: AsyncGenerator<T, void, undefined>;
  /** How many items are worked on at the same time. */
  readonly lanes: number;
  readonly signal?: AbortSignal;
  /** Called once for each lane that is used; the result works on one item at a time, with what the lane owns. */
  readonly start: () => (item: T) => Promise<void>;
}

/**
 * Works on all items, several at a time. After the first error, or once the signal is aborted, no further item starts;
 * the promise rejects with that first error (ABORTED for the signal) when no lane runs any more.
 */
export async function runPipeline<T>(pipeline: Pipeline<T>): Promise<void> {
  const { items, signal } = pipeline;
  const failures: unknown[] = [];
  let turn: Promise<unknown> = Promise.resolve();

  /** One lane asks at a time, in order. */
  const next = async (): Promise<IteratorResult<T, void>> => {
    const before = turn;
    const { promise, resolve } = Promise.withResolvers<void>();
    turn = promise;
    await before;
    try {
      return failures.length > 0 ? { done: true, value: undefined } : await items.next();
    } finally {
      resolve();
    }
  };

  const lane = async (): Promise<void> => {
    let work: ((item: T) => Promise<void>) | undefined;
    try {
      while (failures.length === 0) {
        throwIfAborted(signal);
        const item = await next();
        if (item.done === true || failures.length > 0) return;
        throwIfAborted(signal);
        work ??= pipeline.start();
        await work(item.value);
      }
    } catch (error) {
      failures.push(error);
    }
  };

  await Promise.all(Array.from({ length: pipeline.lanes }, lane));
  await items.return();
  if (failures.length > 0) throw failures[0];
}

/** ABORTED, with the signal's reason as its cause, when the signal is aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw aborted(signal);
}

function aborted(signal: AbortSignal): ApplianceError {
  return new ApplianceError('ABORTED', 'the operation was interrupted', { cause: signal.reason });
}

/**
 * Works on a short list, several items at a time. After the first error no further item starts; rejects with it when
 * nothing runs any more.
 */
export async function runLanes<T>(items: readonly T[], lanes: number, work: (item: T) => Promise<void>): Promise<void> {
  const failures: unknown[] = [];
  let index = 0;
  const lane = async (): Promise<void> => {
    try {
      for (let item = items[index++]; item !== undefined && failures.length === 0; item = items[index++]) {
        await work(item);
      }
    } catch (error) {
      failures.push(error);
    }
  };
  await Promise.all(Array.from({ length: Math.min(lanes, items.length) }, lane));
  if (failures.length > 0) throw failures[0];
}
