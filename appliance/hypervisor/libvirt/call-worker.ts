// SPDX-License-Identifier: Apache-2.0
import { parentPort, workerData } from 'node:worker_threads';
import { ApplianceError, toError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import { agentOperations } from './agent-operations.ts';
import { blockJobOperations } from './block-job-operations.ts';
import { checkpointOperations } from './checkpoint-operations.ts';
import { connectionOperations, openSession } from './connection-operations.ts';
import { EVENT_ID } from './constants.ts';
import { domainOperations } from './domain-operations.ts';
import { toApplianceError } from './errors.ts';
import { jobOperations } from './job-operations.ts';
import type { CallReply, CallRequest, CallWorkerData, EventCallbacks, WireError } from './protocol.ts';
import { type Handlers, LibvirtCallError, Session } from './session.ts';
import { storageOperations } from './storage-operations.ts';
import { toWireError } from './wire-error.ts';

/**
 * The thread of one connection: makes every blocking libvirt call and reads libvirt's thread-local error right after it.
 * Requests are answered one by one in their order. Event callbacks are registered here, because registering asks the daemon,
 * but they run on the event worker's thread, whose addresses came with `workerData`.
 */
const handlers: Handlers = {
  ...connectionOperations,
  ...domainOperations,
  ...jobOperations,
  ...blockJobOperations,
  ...checkpointOperations,
  ...agentOperations,
  ...storageOperations,
};

const port = parentPort;
invariant(port !== null, 'the call worker runs in a worker thread');
const data = workerData as CallWorkerData;

const registrations: number[] = [];
let session: Session | undefined;

try {
  session = new Session();
  openSession(session, data.uri);
  prepareConnection(session, data);
  send({ kind: 'opened' });
  port.on('message', (request: CallRequest) => {
    serve(request);
  });
} catch (error) {
  if (session !== undefined && session.connection !== 0) session.api.virConnectClose(session.connection);
  send({ kind: 'open-failed', error: describe(error, 'open', session) });
}

function serve(request: CallRequest): void {
  invariant(session !== undefined, 'requests come after the connection was opened');
  if (request.kind === 'close') {
    closeConnection(session, data.callbacks);
    send({ kind: 'closed' });
    port?.close();
    return;
  }
  const { id, operation, args } = request;
  try {
    session.api.virResetLastError();
    const handler = handlers[operation] as (session: Session, args: unknown) => unknown;
    send({ kind: 'result', id, result: handler(session, args) });
  } catch (error) {
    send({ kind: 'error', id, error: describe(error, operation, session, subjectOf(args)) });
  }
}

function send(reply: CallReply): void {
  port?.postMessage(reply);
}

/** Keepalive makes a call to a daemon that hangs come back with an error; the event worker's loop runs its clock. */
function prepareConnection({ api, connection }: Session, { keepAlive, callbacks, connectionId }: CallWorkerData): void {
  // Both fail on drivers without a remote side; the connection works without.
  api.virConnectSetKeepAlive(connection, keepAlive.intervalSeconds, keepAlive.count);
  api.virConnectRegisterCloseCallback(connection, callbacks.closed, connectionId, 0);
  const events = [
    [EVENT_ID.lifecycle, callbacks.lifecycle],
    [EVENT_ID.reboot, callbacks.reboot],
    [EVENT_ID.ioError, callbacks.ioError],
    [EVENT_ID.blockJob, callbacks.blockJob],
    [EVENT_ID.agent, callbacks.agent],
    [EVENT_ID.jobCompleted, callbacks.jobCompleted],
    [EVENT_ID.deviceAdded, callbacks.deviceAdded],
    [EVENT_ID.deviceRemoved, callbacks.deviceRemoved],
    [EVENT_ID.metadataChange, callbacks.metadataChange],
    [EVENT_ID.migrationIteration, callbacks.migrationIteration],
  ] as const;
  for (const [id, callback] of events) {
    const registration = api.virConnectDomainEventRegisterAny(connection, 0, id, callback, connectionId, 0);
    if (registration >= 0) registrations.push(registration);
  }
}

function closeConnection({ api, connection }: Session, callbacks: EventCallbacks): void {
  api.virConnectUnregisterCloseCallback(connection, callbacks.closed);
  for (const registration of registrations) api.virConnectDomainEventDeregisterAny(connection, registration);
  api.virConnectClose(connection);
}

function describe(error: unknown, operation: string, failed: Session | undefined, subject?: string): WireError {
  if (error instanceof LibvirtCallError) {
    const isAlive =
      failed === undefined || failed.connection === 0 || failed.api.virConnectIsAlive(failed.connection) === 1;
    const context = { operation, isAlive, ...(subject === undefined ? {} : { subject }) };
    return toWireError(toApplianceError(error.failure, context));
  }
  if (error instanceof ApplianceError) return toWireError(error);
  return toWireError(new ApplianceError('INTERNAL', `${operation}: ${toError(error).stack ?? toError(error).message}`));
}

function subjectOf(args: unknown): string | undefined {
  if (typeof args !== 'object' || args === null) return undefined;
  if ('name' in args && typeof args.name === 'string') return args.name;
  return 'uuid' in args && typeof args.uuid === 'string' ? args.uuid : undefined;
}
