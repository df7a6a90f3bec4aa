// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Principal } from '../../access/principal.ts';
import { systemClock } from '../../core/clock.ts';
import { InvariantViolation } from '../../core/invariant.ts';
import { performOperation, publishChanges } from '../appliance-host.ts';
import {
  API_ROOT,
  isOperationName,
  OPERATION_ROUTES,
  type OperationRoute,
  withoutSecrets,
} from '../operation-routes.ts';
import type { OperationContext, OperationName } from '../operations.ts';
import { asApplianceError } from '../wire-error.ts';
import type { AccessControl, ApiContext, OperationCall } from './api-context.ts';
import type { Answer } from './idempotency.ts';
import { pageOf } from './page.ts';
import { type RequestParams, requestParams } from './request-params.ts';

const JSON_TYPE = 'application/json; charset=utf-8';

/** Answered although the service stops: who followed a run learns what became of it. */
const FOR_THE_END: readonly OperationName[] = ['runShow'];

/** Registers every operation of the table. */
export function addOperations(app: FastifyInstance, context: ApiContext, access: AccessControl): void {
  for (const name of Object.keys(OPERATION_ROUTES).filter(isOperationName)) {
    const handler = new OperationHandler(name, context, access);
    const { method, path } = placeOf(name);
    app.route({
      method,
      url: path,
      config: { needs: handler.route.restorer === undefined ? handler.route.needs : 'anybody', operation: name },
      ...(handler.route.maxBodyBytes === undefined ? {} : { bodyLimit: handler.route.maxBodyBytes }),
      handler: (request, reply) => handler.handle(request, reply),
    });
  }
}

export function placeOf(name: OperationName): { readonly method: string; readonly path: string } {
  const [method = '', path = ''] = OPERATION_ROUTES[name].http.split(' ');
  return { method, path: `${API_ROOT}${path}` };
}

type Items = readonly Readonly<Record<string, unknown>>[];

interface Call extends RequestParams {
  readonly request: FastifyRequest;
  readonly principal: Principal;
}

/** What the server does with the requests for one operation. */
class OperationHandler {
  readonly name: OperationName;
  readonly route: OperationRoute;
  readonly #context: ApiContext;
  readonly #access: AccessControl;

  constructor(name: OperationName, context: ApiContext, access: AccessControl) {
    this.name = name;
    this.route = OPERATION_ROUTES[name];
    this.#context = context;
    this.#access = access;
  }

  async handle(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const { principal } = request;
    if (principal === undefined) throw new InvariantViolation('who asks for an operation is known');
    const call: Call = { request, principal, ...requestParams(this.name, request) };
    await this.#access.authorize(this.#asked(call));
    const { activity } = this.#context;
    if (this.route.kind === 'read') return this.#read(call, reply);
    const answer = await this.#once(call, () =>
      this.route.kind === 'run' ? this.#start(call) : activity.perform(this.name, () => this.#change(call)),
    );
    return reply.code(answer.status).headers(answer.headers).type(JSON_TYPE).send(answer.body);
  }

  #asked({ principal, params, request }: Call): OperationCall {
    return { principal, operation: this.name, params, request };
  }

  async #read(call: Call, reply: FastifyReply): Promise<FastifyReply> {
    const { activity } = this.#context;
    const isForTheEnd = FOR_THE_END.includes(this.name) && activity.isStopping;
    const work = (): Promise<unknown> => this.#perform(call, this.#readSignal(reply));
    const result = isForTheEnd ? await work() : await activity.perform(this.name, work);
    const body = JSON.stringify(this.route.isList === true ? pageOf(result as Items, call.rest) : result);
    const tag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
    reply.header('etag', tag);
    if (matches(call.request.headers['if-none-match'], tag)) return reply.code(304).send();
    return reply.type(JSON_TYPE).send(body);
  }

  async #change(call: Call): Promise<Answer> {
    const { host, holds, activity } = this.#context;
    const result = await this.#perform(call, activity.signal);
    const { id } = { id: undefined, ...(result as object), ...call.params } as { readonly id?: unknown };
    if (this.name === 'export') holds.made(String((result as { readonly id: string }).id));
    if (this.name === 'unexport') holds.ended(String(id));
    const { machineId } = { machineId: null, ...(result as object) } as { readonly machineId: unknown };
    publishChanges(host.eventHub, this.name, typeof machineId === 'string' ? machineId : null);
    return { status: 200, headers: {}, body: JSON.stringify(result ?? null) };
  }

  async #start(call: Call): Promise<Answer> {
    const { principal, params, request } = call;
    const run = this.#context.host.runService.start({
      operation: this.name,
      params,
      principal,
      requestId: request.id,
      ...addressOf(request),
    });
    this.#log('info', call, 'started', { run: run.id, request: request.id });
    const location = `${API_ROOT}/runs/${run.id}`;
    return { status: 202, headers: { location }, body: JSON.stringify(run.report()) };
  }

  #once(call: Call, perform: () => Promise<Answer>): Promise<Answer> {
    const { principal, request } = call;
    const key = request.headers['idempotency-key'];
    if (key === undefined) return perform();
    const { method, url, body } = request;
    return this.#context.keys.answer({ key: String(key), principal, method, url, body }, perform);
  }

  async #perform(call: Call, signal: AbortSignal): Promise<unknown> {
    const { host, onDefect, logger } = this.#context;
    const startedMs = systemClock.elapsedMs();
    const level = this.route.kind === 'read' ? 'debug' : 'info';
    const context: OperationContext = {
      principal: call.principal,
      requestId: call.request.id,
      ...addressOf(call.request),
      signal,
      onProgress: () => undefined,
      onNotice: (notice) => logger.info({ operation: this.name, request: call.request.id }, notice),
    };
    let outcome = 'ok';
    try {
      const result = await performOperation(host, { operation: this.name, params: call.params, context });
      return this.#access.visible === undefined ? result : await this.#access.visible(this.#asked(call), result);
    } catch (thrown) {
      if (thrown instanceof InvariantViolation) onDefect(thrown);
      const error = asApplianceError(thrown, signal);
      outcome = error.code;
      throw error;
    } finally {
      const durationMs = Math.round(systemClock.elapsedMs() - startedMs);
      this.#log(level, call, 'done', { request: call.request.id, durationMs, outcome });
    }
  }

  #log(level: 'debug' | 'info', { principal, params }: Call, text: string, members: object): void {
    const shown = withoutSecrets(this.name, params);
    const by = `${principal.kind}:${principal.id}`;
    this.#context.logger[level]({ operation: this.name, by, params: shown, ...members }, text);
  }

  /** A read ends with its client, too: nobody would see what it gives. */
  #readSignal(reply: FastifyReply): AbortSignal {
    const gone = new AbortController();
    reply.raw.once('close', () => {
      if (!reply.raw.writableFinished) gone.abort();
    });
    return AbortSignal.any([gone.signal, this.#context.activity.signal]);
  }
}

/** Over a unix socket there is none. */
function addressOf({ socket }: FastifyRequest): { readonly address?: string } {
  return socket.remoteAddress === undefined ? {} : { address: socket.remoteAddress };
}

/** RFC 9110, section 13.1.2; weak comparison. */
function matches(header: string | undefined, tag: string): boolean {
  if (header === undefined) return false;
  return header.trim() === '*' || header.split(',').some((one) => one.trim().replace(/^W\//, '') === tag);
}
