// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Principal } from '../../access/principal.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { type ApplianceEvent, type EventHub, isEventType } from '../events/event-hub.ts';
import { forRestorer } from '../guard/restorer-view.ts';
import { API_ROOT } from '../operation-routes.ts';
import type { RunMessage } from '../runs/run.ts';
import type { RunReport } from '../schemas/runs.ts';
import type { AccessControl, ApiContext } from './api-context.ts';
import { EventStream } from './event-stream.ts';

interface StreamCall {
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  readonly access: AccessControl;
}

/** Streams of events at the same time, of all kinds: 1,000 listeners, and the exports and runs that are held and followed. */
export const MAX_EVENT_CLIENTS = 1_500;

/** Whoever listens is asked again so often who that is: a session that ended and a token that was revoked end their streams. */
const RECHECK_INTERVAL_MS = 15_000;

/** The streams of events: of everything, of one run, and those that hold an export. */
export class StreamRoutes {
  readonly #context: ApiContext;
  readonly #streams = new Set<EventStream>();
  /** Those that do not end by themselves. */
  readonly #endless = new Set<EventStream>();
  readonly #recheckIntervalMs: number;

  constructor(context: ApiContext, recheckIntervalMs: number = RECHECK_INTERVAL_MS) {
    this.#context = context;
    this.#recheckIntervalMs = recheckIntervalMs;
  }

  get count(): number {
    return this.#streams.size;
  }

  add(app: FastifyInstance, access: AccessControl): void {
    app.get(`${API_ROOT}/events`, { config: { needs: 'anybody' } }, (request, reply) =>
      this.#events({ request, reply, access }),
    );
    app.get<{ Params: { id: string } }>(
      `${API_ROOT}/runs/:id/events`,
      { config: { needs: 'anybody' } },
      (request, reply) => this.#runEvents(request.params.id, { request, reply, access }),
    );
    app.get<{ Params: { id: string } }>(
      `${API_ROOT}/exports/:id/hold`,
      { config: { needs: 'operator' } },
      (request, reply) => this.#hold(request.params.id, { request, reply, access }),
    );
  }

  /** Ends those that would go on forever. */
  close(): void {
    for (const stream of this.#endless) stream.end();
  }

  #events(call: StreamCall): void {
    const { request } = call;
    const { eventHub } = this.#context.host;
    const isWanted = wantedBy(request);
    const since = request.headers['last-event-id'];
    const stream = this.#open(call, { isEndless: true });
    const send = (event: ApplianceEvent): void => {
      if (!isWanted(event)) return;
      const { id, type, ...data } = event;
      stream.send({ id, event: type, data: shownTo(request, data) });
    };
    this.#sendMissed(eventHub, stream, { since: typeof since === 'string' ? since : undefined, send });
    const listening = eventHub.listen(send);
    void stream.closed.then(() => listening[Symbol.dispose]());
  }

  #sendMissed(
    eventHub: EventHub,
    stream: EventStream,
    options: { readonly since: string | undefined; readonly send: (event: ApplianceEvent) => void },
  ): void {
    const { since, send } = options;
    if (since === undefined) return stream.send({ id: eventHub.newest(), event: 'hello', data: {} });
    const { events, isComplete } = eventHub.since(since);
    if (!isComplete) return stream.send({ id: eventHub.newest(), event: 'reset', data: {} });
    for (const event of events) send(event);
  }

  /** A `run` with everything, its notices so far, then what comes; the last event is the `run` at its end. */
  async #runEvents(id: string, call: StreamCall): Promise<void> {
    const { runService } = this.#context.host;
    const { request } = call;
    const report = await this.#visibleRun(id, request.principal);
    const run = runService.find(report.id);
    const stream = this.#open(call, { isEndless: false });
    const tell = (message: RunMessage): void => sendMessage(stream, shownTo(request, message));
    if (run === undefined) return tell({ type: 'run', run: report });
    if (!run.hasEnded) tell({ type: 'run', run: run.report() });
    for (const notice of run.notices()) tell(notice);
    if (run.hasEnded) return tell({ type: 'run', run: run.report() });
    const following = run.follow(tell);
    void stream.closed.then(() => following[Symbol.dispose]());
  }

  /** To a restorer, runs of other machines and those that do not exist are the same. */
  async #visibleRun(id: string, principal: Principal | undefined): Promise<RunReport> {
    const forbidden = new ApplianceError('FORBIDDEN', 'there is no run of this id that you may see');
    try {
      const report = await this.#context.host.runService.show(id);
      if (maySee(principal, { machineId: report.machineId, data: report })) return report;
    } catch (error) {
      if (principal?.role !== 'restorer' || !hasCode(error, 'RUN_NOT_FOUND', 'BAD_ARGUMENT')) throw error;
    }
    throw forbidden;
  }

  async #hold(id: string, call: StreamCall): Promise<void> {
    const { holds } = this.#context;
    if (!holds.has(id)) throw new ApplianceError('NBD_EXPORT_UNKNOWN', `there is no export ${JSON.stringify(id)}`);
    const stream = this.#open(call, { isEndless: true });
    stream.send({ event: 'held', data: { id } });
    holds.hold(id, stream);
  }

  #open(call: StreamCall, options: { readonly isEndless: boolean }): EventStream {
    if (this.#streams.size >= MAX_EVENT_CLIENTS) {
      throw new ApplianceError('TOO_BUSY', `${MAX_EVENT_CLIENTS} clients listen to events already`);
    }
    const stream = new EventStream(call.reply);
    const recheck = setInterval(() => void recheckCaller(call, stream), this.#recheckIntervalMs);
    recheck.unref();
    this.#streams.add(stream);
    if (options.isEndless) this.#endless.add(stream);
    void stream.closed.then(() => {
      clearInterval(recheck);
      this.#streams.delete(stream);
      this.#endless.delete(stream);
    });
    return stream;
  }
}

/** Ends the stream of somebody who would not be let in now; with another role less or more is seen from here on. */
async function recheckCaller({ request, access }: StreamCall, stream: EventStream): Promise<void> {
  try {
    request.principal = await access.authenticate(request);
  } catch (error) {
    if (!(error instanceof ApplianceError)) throw error;
    request.principal = undefined;
  }
  if (request.principal === undefined) stream.end();
}

/** A restorer is shown no addresses and paths. */
function shownTo<T>({ principal }: FastifyRequest, value: T): T {
  return principal?.role === 'restorer' ? (forRestorer(value) as T) : value;
}

function sendMessage(stream: EventStream, message: RunMessage): void {
  if (message.type === 'run') {
    if (message.run.endedAt !== null) sendEnd(stream, message.run);
    else stream.send({ event: 'run', data: message.run });
    return;
  }
  if (message.type === 'progress') {
    // Who does not read gets no further progress: what waits for it stays small.
    if (!stream.isSlow) stream.send({ event: 'progress', data: message.progress });
    return;
  }
  const { type, ...data } = message;
  stream.send({ event: type, data });
}

function sendEnd(stream: EventStream, run: RunReport): void {
  stream.send({ event: 'run', data: run }, { isLast: true });
}

/** Which events a request asks for (`?type=run,points`), and may see. @throws BAD_ARGUMENT */
function wantedBy(request: FastifyRequest): (event: ApplianceEvent) => boolean {
  const { type } = request.query as { readonly type?: unknown };
  const names = typeof type === 'string' ? type.split(',') : undefined;
  if (type !== undefined && (names === undefined || !names.every(isEventType))) {
    throw new ApplianceError('BAD_ARGUMENT', 'type must be names of events, with commas between');
  }
  return (event) => (names === undefined || names.includes(event.type)) && maySee(request.principal, event);
}

/** A restorer sees what concerns the machines that were named for it, and the runs that it started. */
function maySee(
  principal: Principal | undefined,
  { machineId, data }: Pick<ApplianceEvent, 'machineId' | 'data'>,
): boolean {
  if (principal === undefined) return false;
  if (principal.role !== 'restorer') return true;
  if (machineId !== null && (principal.machines ?? []).includes(machineId)) return true;
  const { startedBy } = data as Partial<Pick<RunReport, 'startedBy'>>;
  return startedBy?.kind === principal.kind && startedBy.id === principal.id;
}
