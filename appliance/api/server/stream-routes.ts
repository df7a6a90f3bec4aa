// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Principal } from '../../access/principal.ts';
import { ApplianceError } from '../../core/errors.ts';
import { type ApplianceEvent, type EventHub, isEventType } from '../events/event-hub.ts';
import { API_ROOT } from '../operation-routes.ts';
import type { RunMessage } from '../runs/run.ts';
import type { RunReport } from '../schemas/runs.ts';
import type { ApiContext } from './api-context.ts';
import { EventStream } from './event-stream.ts';

/** Streams of events at the same time, of all kinds. */
export const MAX_EVENT_CLIENTS = 1_000;

/** The streams of events: of everything, of one run, and those that hold an export. */
export class StreamRoutes {
  readonly #context: ApiContext;
  readonly #streams = new Set<EventStream>();
  /** Those that do not end by themselves. */
  readonly #endless = new Set<EventStream>();

  constructor(context: ApiContext) {
    this.#context = context;
  }

  get count(): number {
    return this.#streams.size;
  }

  add(app: FastifyInstance): void {
    app.get(`${API_ROOT}/events`, { config: { needs: 'anybody' } }, (request, reply) => this.#events(request, reply));
    app.get<{ Params: { id: string } }>(
      `${API_ROOT}/runs/:id/events`,
      { config: { needs: 'anybody' } },
      (request, reply) => this.#runEvents(request, reply),
    );
    app.get<{ Params: { id: string } }>(
      `${API_ROOT}/exports/:id/hold`,
      { config: { needs: 'operator' } },
      (request, reply) => this.#hold(request, reply),
    );
  }

  /** Ends those that would go on forever. */
  close(): void {
    for (const stream of this.#endless) stream.end();
  }

  #events(request: FastifyRequest, reply: FastifyReply): void {
    const { eventHub } = this.#context.host;
    const isWanted = wantedBy(request);
    const since = request.headers['last-event-id'];
    const stream = this.#open(reply, { isEndless: true });
    const send = (event: ApplianceEvent): void => {
      if (!isWanted(event)) return;
      const { id, type, ...data } = event;
      stream.send({ id, event: type, data });
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
  async #runEvents(request: FastifyRequest<{ Params: { id: string } }>, reply: FastifyReply): Promise<void> {
    const { runService } = this.#context.host;
    const report = await runService.show(request.params.id);
    if (!maySee(request.principal, { machineId: report.machineId, data: report })) {
      throw new ApplianceError('FORBIDDEN', 'this run is of another machine');
    }
    const run = runService.find(report.id);
    const stream = this.#open(reply, { isEndless: false });
    if (run === undefined) return sendEnd(stream, report);
    if (!run.hasEnded) stream.send({ event: 'run', data: run.report() });
    for (const { type, ...data } of run.notices()) stream.send({ event: type, data });
    if (run.hasEnded) return sendEnd(stream, run.report());
    const following = run.follow((message) => sendMessage(stream, message));
    void stream.closed.then(() => following[Symbol.dispose]());
  }

  async #hold(request: FastifyRequest<{ Params: { id: string } }>, reply: FastifyReply): Promise<void> {
    const { holds } = this.#context;
    const { id } = request.params;
    if (!holds.has(id)) throw new ApplianceError('NBD_EXPORT_UNKNOWN', `there is no export ${JSON.stringify(id)}`);
    const stream = this.#open(reply, { isEndless: true });
    stream.send({ event: 'held', data: { id } });
    holds.hold(id, stream);
  }

  #open(reply: FastifyReply, options: { readonly isEndless: boolean }): EventStream {
    if (this.#streams.size >= MAX_EVENT_CLIENTS) {
      throw new ApplianceError('TOO_BUSY', `${MAX_EVENT_CLIENTS} clients listen to events already`);
    }
    const stream = new EventStream(reply);
    this.#streams.add(stream);
    if (options.isEndless) this.#endless.add(stream);
    void stream.closed.then(() => {
      this.#streams.delete(stream);
      this.#endless.delete(stream);
    });
    return stream;
  }
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
  const { principal } = request;
  return (event) => (names === undefined || names.includes(event.type)) && maySee(principal, event);
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
