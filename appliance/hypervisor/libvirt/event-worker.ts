// SPDX-License-Identifier: Apache-2.0
import { parentPort } from 'node:worker_threads';
import koffi from 'koffi';
import { ApplianceError, toError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import {
  BLOCK_JOB_KINDS,
  BLOCK_JOB_STATUSES,
  CLOSE_REASONS,
  JOB_OPERATIONS,
  LIFECYCLES,
  METADATA_KINDS,
} from './constants.ts';
import { bindLibvirt, type Handle, type LibvirtApi, silentHandler } from './library.ts';
import type { EventCallbacks, EventMessage, IoErrorEvent, LifecycleEvent } from './protocol.ts';
import { identityOf } from './session.ts';
import { readTypedParams } from './typed-params.ts';
import { toWireError } from './wire-error.ts';

/**
 * The thread of libvirt's event loop, one for the process. libvirt calls the callbacks from inside
 * virEventRunDefaultImpl(), hence on this very thread, where JavaScript may run. Nothing here asks the daemon: a call that
 * hangs cannot stop the loop, and with it the keepalive clock that ends such a call.
 */
const port = parentPort;
invariant(port !== null, 'the event worker runs in a worker thread');

/** How long the loop sleeps at most, which bounds how long ending the thread takes. */
const WAKE_INTERVAL_MS = 50;
/** A loop that only fails would eat a processor and deliver nothing. */
const MAX_FAILURES_IN_A_ROW = 100;
const IO_ERROR_ACTIONS = ['none', 'pause', 'report'] as const;
const AGENT_STATE_CONNECTED = 1;
/** The first arguments of each callback: connection and domain. */
const HEAD = 'intptr_t, intptr_t';

try {
  const api = bindLibvirt();
  api.virSetErrorFunc(0, silentHandler());
  if (api.virEventRegisterDefaultImpl() < 0) throw new ApplianceError('LIBVIRT_FAILED', 'no event loop');
  const wake = registerCallback('void(int, intptr_t)', () => undefined);
  if (api.virEventAddTimeout(WAKE_INTERVAL_MS, wake, 0, 0) < 0) throw new ApplianceError('LIBVIRT_FAILED', 'no timer');
  send({ kind: 'ready', callbacks: registerCallbacks() });
  let failuresInARow = 0;
  const turn = (): void => {
    failuresInARow = api.virEventRunDefaultImpl() < 0 ? failuresInARow + 1 : 0;
    if (failuresInARow > MAX_FAILURES_IN_A_ROW) throw new ApplianceError('LIBVIRT_FAILED', 'the event loop fails');
    setImmediate(turn);
  };
  turn();
} catch (error) {
  const failure = error instanceof ApplianceError ? error : new ApplianceError('INTERNAL', toError(error).message);
  send({ kind: 'failed', error: toWireError(failure) });
}

function send(message: EventMessage): void {
  port?.postMessage(message);
}

function registerCallbacks(): EventCallbacks {
  const api = bindLibvirt();
  return { ...machineCallbacks(api), ...jobCallbacks(api), ...deviceCallbacks(api) };
}

/** The argument lists are those of virConnectDomainEvent…Callback in libvirt-domain.h; `opaque` is the connection's number. */
function machineCallbacks(
  api: LibvirtApi,
): Pick<EventCallbacks, 'lifecycle' | 'reboot' | 'agent' | 'metadataChange' | 'migrationIteration' | 'closed'> {
  return {
    lifecycle: registerCallback(
      `void(${HEAD}, int, int, intptr_t)`,
      (_: Handle, domain: Handle, ...[event, detail, connectionId]: ThreeNumbers) => {
        const lifecycle = lifecycleOf(event, detail);
        if (lifecycle === undefined) return;
        send({ kind: 'event', connectionId, name: 'lifecycle', event: { ...identityOf(api, domain), ...lifecycle } });
      },
    ),
    reboot: registerCallback(`void(${HEAD}, intptr_t)`, (_: Handle, domain: Handle, connectionId: number) => {
      send({ kind: 'event', connectionId, name: 'reboot', event: identityOf(api, domain) });
    }),
    agent: registerCallback(
      `void(${HEAD}, int, int, intptr_t)`,
      (_: Handle, domain: Handle, ...[state, , connectionId]: ThreeNumbers) => {
        const event = { ...identityOf(api, domain), isConnected: state === AGENT_STATE_CONNECTED };
        send({ kind: 'event', connectionId, name: 'agent', event });
      },
    ),
    metadataChange: registerCallback(
      `void(${HEAD}, int, str, intptr_t)`,
      (_: Handle, domain: Handle, ...[kind, namespace, connectionId]: [number, string | null, number]) => {
        const kindName = METADATA_KINDS[kind] ?? 'unknown';
        const event = { ...identityOf(api, domain), kind: kindName, namespace: namespace ?? '' };
        send({ kind: 'event', connectionId, name: 'metadata-changed', event });
      },
    ),
    migrationIteration: registerCallback(
      `void(${HEAD}, int, intptr_t)`,
      (_: Handle, domain: Handle, ...[iteration, connectionId]: [number, number]) => {
        const event = { ...identityOf(api, domain), iteration };
        send({ kind: 'event', connectionId, name: 'migration-iteration', event });
      },
    ),
    closed: registerCallback('void(intptr_t, int, intptr_t)', (_: Handle, reason: number, connectionId: number) => {
      const event = { reason: CLOSE_REASONS[reason] ?? 'unknown' };
      send({ kind: 'event', connectionId, name: 'closed', event });
    }),
  };
}

function jobCallbacks(api: LibvirtApi): Pick<EventCallbacks, 'blockJob' | 'jobCompleted'> {
  return {
    blockJob: registerCallback(
      `void(${HEAD}, str, int, int, intptr_t)`,
      (_: Handle, domain: Handle, ...[disk, kind, status, connectionId]: BlockJobArguments) => {
        const event = {
          ...identityOf(api, domain),
          disk: disk ?? '',
          kind: BLOCK_JOB_KINDS[kind] ?? 'unknown',
          status: BLOCK_JOB_STATUSES[status] ?? 'unknown',
        };
        send({ kind: 'event', connectionId, name: 'block-job', event });
      },
    ),
    jobCompleted: registerCallback(
      `void(${HEAD}, intptr_t, int, intptr_t)`,
      (_: Handle, domain: Handle, ...[list, count, connectionId]: ThreeNumbers) => {
        const params = readTypedParams(list, count);
        const operation = JOB_OPERATIONS[Number(params['operation'] ?? 0)] ?? 'unknown';
        const event = { ...identityOf(api, domain), operation, params };
        send({ kind: 'event', connectionId, name: 'job-completed', event });
      },
    ),
  };
}

function deviceCallbacks(api: LibvirtApi): Pick<EventCallbacks, 'ioError' | 'deviceAdded' | 'deviceRemoved'> {
  const deviceCallback = (name: 'device-added' | 'device-removed'): bigint =>
    registerCallback(
      `void(${HEAD}, str, intptr_t)`,
      (_: Handle, domain: Handle, ...[deviceAlias, connectionId]: [string | null, number]) => {
        const event = { ...identityOf(api, domain), deviceAlias: deviceAlias ?? '' };
        send({ kind: 'event', connectionId, name, event });
      },
    );
  return {
    ioError: registerCallback(
      `void(${HEAD}, str, str, int, str, intptr_t)`,
      (_: Handle, domain: Handle, ...[sourcePath, deviceAlias, action, reason, connectionId]: IoErrorArguments) => {
        const event: IoErrorEvent = {
          ...identityOf(api, domain),
          sourcePath: sourcePath ?? '',
          deviceAlias: deviceAlias ?? '',
          action: IO_ERROR_ACTIONS[action] ?? 'unknown',
          reason: reason ?? '',
        };
        send({ kind: 'event', connectionId, name: 'io-error', event });
      },
    ),
    deviceAdded: deviceCallback('device-added'),
    deviceRemoved: deviceCallback('device-removed'),
  };
}

type ThreeNumbers = [number, number, number];
type IoErrorArguments = [string | null, string | null, number, string | null, number];
type BlockJobArguments = [string | null, number, number, number];

/** An exception must not pass through C: it is reported to the main thread, which ends the loop. */
function registerCallback<Arguments extends unknown[]>(
  signature: string,
  handle: (...parameters: Arguments) => void,
): bigint {
  const match = /^void\((.*)\)$/.exec(signature);
  const types = (match?.[1] ?? '').split(',').map((type) => type.trim());
  const guarded = (...parameters: Arguments): void => {
    try {
      handle(...parameters);
    } catch (error) {
      send({ kind: 'failed', error: toWireError(new ApplianceError('INTERNAL', toError(error).message)) });
    }
  };
  return koffi.register(guarded, koffi.pointer(koffi.proto('void', types)));
}

function lifecycleOf(event: number, detail: number): Pick<LifecycleEvent, 'event' | 'detail'> | undefined {
  const lifecycle = LIFECYCLES[event];
  if (lifecycle === undefined) return undefined;
  return { event: lifecycle.name, detail: lifecycle.details[detail] ?? 'unknown' };
}
