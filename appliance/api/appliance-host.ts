// SPDX-License-Identifier: Apache-2.0
import type { Access } from '../access/access.ts';
import type { Principal } from '../access/principal.ts';
import { type Clock, systemClock } from '../core/clock.ts';
import type { InvariantViolation } from '../core/invariant.ts';
import { EventHub } from './events/event-hub.ts';
import type { OperationGuard } from './guard/operation-guard.ts';
import type { Figures } from './metrics/figures.ts';
import { OPERATION_ROUTES } from './operation-routes.ts';
import type { Appliance, OperationContext, OperationName } from './operations.ts';
import type { Run, RunMessage } from './runs/run.ts';
import type { RunRecords } from './runs/run-history.ts';
import { RunService } from './runs/run-service.ts';
import type { NetworkAccess } from './server/api-context.ts';

/** Events about the progress of one run come at most so often; who follows the run itself sees more. */
const PROGRESS_EVENT_INTERVAL_MS = 1_000;

/** An appliance with what a service needs besides its operations. */
export interface ApplianceHost extends Appliance {
  readonly runService: RunService;
  readonly eventHub: EventHub;
  /** Who may do what; null for one that knows no users. */
  readonly access: Access | null;
  readonly guard: OperationGuard;
  /** Who may come over the network, and how they log in; without it nobody may. */
  readonly networkAccess?: NetworkAccess | undefined;
  /** Why it cannot do its work now, in sentences; empty when it can. */
  problems(): Promise<readonly string[]>;
  /** Settles when every thread of it has answered; rejects when one is gone. Without it nothing can be asked. */
  isWorking?(): Promise<void>;
  /** What the metrics are made of; without it there are none. */
  figures?(): Promise<Figures>;
  /** Whether everybody may read the metrics. */
  areMetricsPublic?(): boolean;
}

export interface ServiceParts {
  readonly records: RunRecords;
  readonly onNotice: (sentence: string) => void;
  readonly onDefect: (violation: InvariantViolation) => void;
  readonly clock?: Clock;
}

/** Runs and events of an appliance that is about to be made; `appliance` is asked for when the first run starts. */
export function serviceParts(
  appliance: () => Appliance,
  parts: ServiceParts,
): Pick<ApplianceHost, 'runService' | 'eventHub'> {
  const clock = parts.clock ?? systemClock;
  const eventHub = new EventHub(clock);
  const lastProgress = new WeakMap<Run, number>();
  const onMessage = (run: Run, message: RunMessage): void => {
    if (message.type === 'notice') {
      eventHub.publish('notice', { run: run.id, notice: message.notice }, run.summary().machineId);
      return;
    }
    if (message.type === 'progress') {
      const atMs = clock.elapsedMs();
      if (atMs - (lastProgress.get(run) ?? Number.NEGATIVE_INFINITY) < PROGRESS_EVENT_INTERVAL_MS) return;
      lastProgress.set(run, atMs);
    }
    const summary = run.summary();
    eventHub.publish('run', summary, summary.machineId);
    if (run.hasEnded) publishChanges(eventHub, run.request.operation, summary.machineId);
  };
  const runService = new RunService({
    ...parts,
    onMessage,
    perform: (operation, params, context) => performOperation(appliance(), { operation, params, context }),
  });
  return { runService, eventHub };
}

/** Tells what an operation has changed, as far as the table knows. */
export function publishChanges(hub: EventHub, operation: OperationName, machineId: string | null): void {
  for (const type of OPERATION_ROUTES[operation].changes ?? []) hub.publish(type, { operation }, machineId);
}

/** The operation of that name. Its parameters have been checked. */
export async function performOperation(
  appliance: Appliance,
  call: {
    readonly operation: OperationName;
    readonly params: Readonly<Record<string, unknown>>;
    readonly context: OperationContext;
  },
): Promise<unknown> {
  const operation = appliance[call.operation].bind(appliance) as (
    params: unknown,
    context: OperationContext,
  ) => Promise<unknown>;
  return operation(call.params, call.context);
}

/** For operations that nobody follows or interrupts. */
export function unattended(principal: Principal): OperationContext {
  return { principal, signal: new AbortController().signal, onProgress: ignore, onNotice: ignore };
}

function ignore(): void {
  // Nobody is there to be told.
}
