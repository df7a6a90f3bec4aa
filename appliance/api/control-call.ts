// SPDX-License-Identifier: Apache-2.0
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { ApplianceError, hasCode, systemErrorCode, toError } from '../core/errors.ts';
import { type ControlMessage, MessageParser, OPERATIONS_PATH } from './control-protocol.ts';
import { controlSocketPath, SocketAddress } from './control-socket.ts';
import type { OperationContext, OperationName } from './operations.ts';
import { decodeError } from './wire-error.ts';

/** How long an aborted operation may take to end in the service before the command stops waiting for it. */
const ABORT_LIMIT_MS = 30_000;

/** One HTTP request to the service of a state directory; the socket's address is given back with the connection. */
export function requestService(
  stateDirectory: string,
  options: { readonly method: string; readonly path: string; readonly body?: unknown },
): ClientRequest {
  const address = SocketAddress.of(controlSocketPath(stateDirectory));
  const body = options.body === undefined ? undefined : JSON.stringify(options.body);
  const headers =
    body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
  const { method, path } = options;
  const outgoing = request({ socketPath: address.address, method, path, headers, agent: false });
  outgoing.once('close', () => address[Symbol.dispose]());
  outgoing.end(body);
  return outgoing;
}

export interface ControlCallOptions {
  readonly stateDirectory: string;
  readonly name: OperationName;
  readonly params: unknown;
  readonly context: OperationContext;
}

/**
 * One operation in the service. `result` settles with its outcome; `ended` resolves when the service has closed the answer,
 * which for an export is its end. Aborting the context's signal aborts the operation there and waits for its outcome.
 */
export class ControlCall {
  readonly result: Promise<unknown>;
  readonly ended: Promise<void>;
  private readonly options: ControlCallOptions;
  private readonly outgoing: ClientRequest;
  private readonly parser = new MessageParser();
  private readonly outcome = Promise.withResolvers<unknown>();
  private readonly end = Promise.withResolvers<void>();
  private id: string | undefined;
  private abortLimit: NodeJS.Timeout | undefined;

  constructor(options: ControlCallOptions) {
    this.options = options;
    this.result = this.outcome.promise;
    this.ended = this.end.promise;
    const { stateDirectory, name, params, context } = options;
    this.outgoing = requestService(stateDirectory, {
      method: 'POST',
      path: `${OPERATIONS_PATH}/${name}`,
      body: params,
    });
    this.outgoing.once('response', (response) => this.follow(response));
    this.outgoing.on('error', (error) => this.fail(error));
    this.outgoing.once('close', () => this.finish());
    context.signal.addEventListener('abort', this.onAbort, { once: true });
    if (context.signal.aborted) this.onAbort();
  }

  /** Goes away: what still runs of it in the service is aborted, an export ends. */
  close(): void {
    this.outgoing.destroy();
  }

  private follow(response: IncomingMessage): void {
    response.on('data', (bytes: Buffer) => {
      try {
        for (const message of this.parser.push(bytes)) this.take(message);
      } catch (error) {
        this.fail(toError(error));
        this.outgoing.destroy();
      }
    });
    response.on('error', (error) => this.fail(error));
  }

  private take(message: ControlMessage): void {
    const { context } = this.options;
    if (message.started !== undefined) {
      this.id = message.started.id;
      if (context.signal.aborted) this.sendAbort(this.id);
    }
    if (message.progress !== undefined) context.onProgress(message.progress);
    if (message.notice !== undefined) context.onNotice(message.notice);
    if (message.error !== undefined) this.outcome.reject(decodeError(message.error));
    if (Object.hasOwn(message, 'result')) this.outcome.resolve(message.result);
    if (message.error !== undefined || Object.hasOwn(message, 'result')) this.ignoreAbort();
  }

  /** The operation has settled: its signal means nothing to an export that lives on. */
  private ignoreAbort(): void {
    clearTimeout(this.abortLimit);
    this.options.context.signal.removeEventListener('abort', this.onAbort);
  }

  private readonly onAbort = (): void => {
    this.abortLimit = setTimeout(() => this.close(), ABORT_LIMIT_MS);
    if (this.id !== undefined) this.sendAbort(this.id);
  };

  private sendAbort(id: string): void {
    const path = `${OPERATIONS_PATH}/${id}`;
    const outgoing = requestService(this.options.stateDirectory, { method: 'DELETE', path });
    outgoing.once('response', (response) => response.resume());
    // Without an answer the connection itself says that nobody waits any more.
    outgoing.once('error', () => this.close());
  }

  private finish(): void {
    this.ignoreAbort();
    this.fail(new Error('the connection was closed'));
    this.end.resolve();
  }

  /** Only the first outcome counts. */
  private fail(error: Error): void {
    this.outcome.reject(this.describe(error));
  }

  private describe(error: Error): ApplianceError {
    const { context, name, stateDirectory } = this.options;
    if (hasCode(error, 'INTERNAL')) return error;
    if (context.signal.aborted) return new ApplianceError('ABORTED', `${name} was interrupted`, { cause: error });
    return serviceGone({ error, stateDirectory, during: name });
  }
}

/** What a broken connection to the service means. */
export function serviceGone(about: {
  readonly error: Error;
  readonly stateDirectory: string;
  readonly during: string;
}): ApplianceError {
  const { error, stateDirectory, during } = about;
  const details = { stateDirectory };
  const code = systemErrorCode(error);
  if (code === 'ENOENT' || code === 'ECONNREFUSED') {
    return new ApplianceError('SERVICE_UNREACHABLE', `no service runs on ${stateDirectory}`, { cause: error, details });
  }
  if (code === 'EACCES' || code === 'EPERM') {
    const message = `the state directory ${stateDirectory} belongs to another user`;
    const hint = 'Run the command as that user, or choose another one with --state or UNDERSTUDY_STATE.';
    return new ApplianceError('SERVICE_UNREACHABLE', message, { cause: error, details, hint });
  }
  return new ApplianceError('SERVICE_UNREACHABLE', `the service ended during ${during}`, {
    cause: error,
    details,
    hint: `Look at its log (${stateDirectory}/serve.log when it was started by \`boot\`), and run the command again.`,
  });
}
