// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { ApplianceError, toError } from '../../core/errors.ts';
import { API_ROOT, isOperationName, OPERATION_ROUTES } from '../operation-routes.ts';
import type { Appliance, ExportReport, OperationContext, OperationName } from '../operations.ts';
import type { RunReport } from '../schemas/runs.ts';
import type { Endpoint } from './endpoint.ts';
import { EventSource } from './event-source.ts';
import { jsonAnswer } from './json-answer.ts';
import { operationRequest, withQuery } from './operation-request.ts';
import { RunFollower } from './run-follower.ts';

/** Items that are asked for at once. */
const PAGE_ITEMS = 1_000;

/** How long the answer to a change may take once its caller wants to go: it cannot be taken back. */
const CHANGE_PATIENCE_MS = 30_000;

/** The appliance in a service. */
export interface RemoteAppliance extends Appliance {
  /** Resolves when an export of this client does not live any more: it was ended, or the service went away. */
  exportEnded(id: string): Promise<void>;
}

/**
 * The appliance behind an endpoint, made from the table of operations. An export is held by an open request and ends at the latest with
 * `[Symbol.asyncDispose]`. Errors are those of the operations, and SERVICE_UNREACHABLE.
 */
export function remoteAppliance(endpoint: Endpoint): RemoteAppliance {
  const client = new OperationClient(endpoint);
  const operations = Object.keys(OPERATION_ROUTES)
    .filter(isOperationName)
    .map((name) => [name, (params: Params, context: OperationContext) => client.call(name, params, context)] as const);
  return {
    ...(Object.fromEntries(operations) as unknown as Omit<Appliance, typeof Symbol.asyncDispose>),
    exportEnded: (id) => client.exportEnded(id),
    [Symbol.asyncDispose]: () => client.close(),
  };
}

type Params = Readonly<Record<string, unknown>>;

class OperationClient {
  readonly #endpoint: Endpoint;
  readonly #held = new Map<string, { readonly source: EventSource; readonly ended: Promise<void> }>();

  constructor(endpoint: Endpoint) {
    this.#endpoint = endpoint;
  }

  async call(name: OperationName, params: Params, context: OperationContext): Promise<unknown> {
    if (context.signal.aborted) throw interrupted(name);
    const { kind, isList } = OPERATION_ROUTES[name];
    if (isList === true) return this.#list(name, params, context);
    const value = await this.#send(name, operationRequest(name, params), context);
    if (kind === 'run') return new RunFollower(this.#endpoint, value as RunReport, context).result();
    if (name === 'export') await this.#hold((value as ExportReport).id);
    if (name === 'unexport') await this.exportEnded(String(params['id']));
    return value;
  }

  async exportEnded(id: string): Promise<void> {
    await this.#held.get(id)?.ended;
  }

  async close(): Promise<void> {
    const held = [...this.#held.values()];
    for (const { source } of held) source.close();
    await Promise.all(held.map(({ ended }) => ended));
  }

  async #list(name: OperationName, params: Params, context: OperationContext): Promise<readonly unknown[]> {
    const { method, path } = operationRequest(name, params);
    const items: unknown[] = [];
    for (let after: string | null = ''; after !== null; ) {
      const query = new URLSearchParams({ limit: String(PAGE_ITEMS), ...(after === '' ? {} : { after }) });
      const page = await this.#send(name, { method, path: withQuery(path, query) }, context);
      const { items: own, next } = page as { readonly items: unknown; readonly next: unknown };
      if (!Array.isArray(own)) throw new ApplianceError('INTERNAL', 'the service sent a page without items');
      items.push(...(own as unknown[]));
      after = typeof next === 'string' ? next : null;
    }
    return items;
  }

  /** A read is given up when its caller goes; a change is waited for, shortly: it cannot be taken back. */
  async #send(
    name: OperationName,
    request: ReturnType<typeof operationRequest>,
    { signal }: OperationContext,
  ): Promise<unknown> {
    const isRead = OPERATION_ROUTES[name].kind === 'read';
    const headers = isRead ? {} : { 'idempotency-key': randomUUID() };
    const outgoing = this.#endpoint.send({ ...request, headers });
    let limit: NodeJS.Timeout | undefined;
    const onAbort = (): void => {
      limit = setTimeout(() => outgoing.destroy(), isRead ? 0 : CHANGE_PATIENCE_MS);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return (await jsonAnswer(outgoing)).value;
    } catch (thrown) {
      if (thrown instanceof ApplianceError) throw thrown;
      if (signal.aborted) throw interrupted(name, thrown);
      throw this.#endpoint.describe(toError(thrown), name);
    } finally {
      clearTimeout(limit);
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #hold(id: string): Promise<void> {
    const path = `${API_ROOT}/exports/${encodeURIComponent(id)}/hold`;
    const source = await EventSource.open(this.#endpoint, { path }).catch((error: unknown) => {
      if (error instanceof ApplianceError) throw error;
      throw this.#endpoint.describe(toError(error), 'export');
    });
    const ended = readToEnd(source).then(() => void this.#held.delete(id));
    this.#held.set(id, { source, ended });
  }
}

/** Resolves when the stream has ended, however. */
async function readToEnd(source: EventSource): Promise<void> {
  try {
    for await (const _ of source.events());
  } catch (error) {
    // A connection that broke ended it as well.
    if (!(error instanceof Error)) throw error;
  }
}

function interrupted(name: OperationName, cause?: unknown): ApplianceError {
  return new ApplianceError('ABORTED', `${name} was interrupted`, { cause });
}
