// SPDX-License-Identifier: Apache-2.0
import type { Logger } from 'pino';
import type { EventHub } from '../events/event-hub.ts';
import type { RunSummary } from '../schemas/runs.ts';

/** A line in the log when a run begins and when it ends, whoever started it, and for its notices. */
export function logRuns(hub: EventHub, logger: Logger): Disposable {
  const begun = new Set<string>();
  return hub.listen(({ type, data }) => {
    if (type === 'notice') {
      const { run, notice } = data as { readonly run: string; readonly notice: string };
      return logger.info({ run }, notice);
    }
    if (type !== 'run') return;
    const run = data as RunSummary;
    const members = { operation: run.operation, run: run.id, machine: run.machine };
    if (run.endedAt === null) {
      if (begun.has(run.id)) return;
      begun.add(run.id);
      return logger.info({ ...members, by: `${run.startedBy.kind}:${run.startedBy.id}` }, `the run is ${run.state}`);
    }
    begun.delete(run.id);
    const outcome = run.error?.code ?? 'ok';
    const durationMs = Date.parse(run.endedAt) - Date.parse(run.startedAt ?? run.createdAt);
    const level = outcome === 'INTERNAL' ? 'error' : 'info';
    logger[level]({ ...members, durationMs, outcome, ...(level === 'error' ? { err: run.error } : {}) }, 'ended');
  });
}
