// SPDX-License-Identifier: Apache-2.0
import { Agent, request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { controlSocketPath } from '../../appliance/api/control-socket.ts';
import { systemClock } from '../../appliance/core/clock.ts';

/** What a load found. */
export interface LoadFigures {
  /** Of each request that was answered with 2xx, from the moment at which it was due to the last byte of its answer, in ms. */
  readonly latencies: readonly number[];
  /** The same by the path without its query. */
  readonly byPath: ReadonlyMap<string, readonly number[]>;
  /** Requests with another status, or without an answer. */
  readonly failures: readonly string[];
}

export interface LoadPlan {
  readonly perSecond: number;
  readonly seconds: number;
  /** The path of the n-th request. */
  readonly path: (n: number) => string;
}

const MAX_SOCKETS = 128;
const TICK_MS = 1;

/**
 * Sends requests at their times, whether those before them were answered or not, and counts from the time at which each was due:
 * a service that stands still for a second is late for all requests of that second, not for one.
 */
export async function openLoop(stateDirectory: string, { perSecond, seconds, path }: LoadPlan): Promise<LoadFigures> {
  const socketPath = controlSocketPath(stateDirectory);
  const agent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS });
  const latencies: number[] = [];
  const byPath = new Map<string, number[]>();
  const failures: string[] = [];
  const waiting: Promise<void>[] = [];
  const beganMs = systemClock.elapsedMs();
  const total = Math.round(perSecond * seconds);
  for (let n = 0; n < total; ) {
    const dueMs = beganMs + (n * 1000) / perSecond;
    if (systemClock.elapsedMs() < dueMs) {
      await delay(TICK_MS);
      continue;
    }
    const target = path(n);
    n += 1;
    waiting.push(
      ask(target, { socketPath, agent }).then((problem) => {
        const tookMs = systemClock.elapsedMs() - dueMs;
        if (problem !== undefined) return void failures.push(`${target}: ${problem}`);
        const [name = ''] = target.split('?');
        const own = byPath.get(name) ?? [];
        byPath.set(name, own);
        own.push(tookMs);
        latencies.push(tookMs);
      }),
    );
  }
  await Promise.all(waiting);
  agent.destroy();
  return { latencies, byPath, failures };
}

/** Undefined when the answer came whole; a stream of events when its first event did. */
function ask(
  path: string,
  options: { readonly socketPath: string; readonly agent: Agent },
): Promise<string | undefined> {
  const isStream = path.startsWith('/api/v1/events');
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const outgoing = request({ ...options, path, ...(isStream ? { agent: false } : {}) }, (response) => {
    const isGood = (response.statusCode ?? 0) < 300;
    const end = (): void => resolve(isGood ? undefined : `status ${response.statusCode}`);
    response.on('data', () => {
      if (!isStream) return;
      end();
      outgoing.destroy();
    });
    response.on('end', end);
    response.on('error', (error) => resolve(error.message));
  });
  outgoing.on('error', (error) => resolve(error.message));
  outgoing.end();
  return promise;
}
