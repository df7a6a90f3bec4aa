// SPDX-License-Identifier: Apache-2.0
import { Worker } from 'node:worker_threads';
import koffi from 'koffi';
import { ApplianceError } from '../../core/errors.ts';
import type {
  CallReply,
  CallRequest,
  CallWorkerData,
  OperationArgs,
  OperationName,
  OperationResult,
} from './protocol.ts';
import { fromWireError } from './wire-error.ts';

export interface CallOptions {
  /** Ends the waiting, not the call: one that libvirt has begun may still take effect. A call that waits is dropped. */
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

export const DEFAULT_CALL_TIMEOUT_MS = 120_000;
export const CLOSE_DEADLINE_MS = 5_000;

interface PendingCall {
  readonly id: number;
  readonly operation: OperationName;
  readonly args: unknown;
  readonly settle: PromiseWithResolvers<unknown>;
  isAbandoned: boolean;
}

/** Workers inside a call that may never return; looked at when the process exits. */
const busyWorkers = new Set<Worker>();
let isExitGuarded = false;

/**
 * The main thread's end of a call worker. Hands over one call at a time, in order, so that a call that is given up while it waits
 * is never made. After the worker or the connection is lost every call fails with the same first cause.
 */
export class CallChannel {
  readonly #worker: Worker;
  readonly #queue: PendingCall[] = [];
  readonly #opened: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #closed: PromiseWithResolvers<void> = Promise.withResolvers();
  #active: PendingCall | undefined;
  #nextId: number = 1;
  #failure: ApplianceError | undefined;

  constructor(data: CallWorkerData) {
    guardExit();
    this.#worker = new Worker(new URL('./call-worker.ts', import.meta.url), {
      workerData: data,
      name: `libvirt-${data.connectionId}`,
    });
    this.#setBusy(true);
    this.#worker.on('message', (reply: CallReply) => {
      this.#receive(reply);
    });
    this.#worker.on('error', (cause) => {
      this.fail(new ApplianceError('INTERNAL', `the libvirt thread failed: ${String(cause)}`, { cause }));
    });
    this.#worker.on('exit', () => {
      this.#setBusy(false);
      this.fail(new ApplianceError('CLOSED', 'the libvirt connection is closed'));
      this.#closed.resolve();
    });
    // Whoever opened may have given up waiting.
    this.#opened.promise.catch(() => undefined);
  }

  /** Resolves when its thread has ended. */
  get ended(): Promise<void> {
    return this.#closed.promise;
  }

  /** Resolves when the connection is open; rejects with LIBVIRT_CONNECT_FAILED, LIBVIRT_DENIED, TIMED_OUT, ABORTED. */
  async opened(options: CallOptions): Promise<void> {
    await waitFor(this.#opened.promise, 'open', { timeoutMs: DEFAULT_CALL_TIMEOUT_MS, ...options });
  }

  async call<K extends OperationName>(
    operation: K,
    args: OperationArgs<K>,
    options: CallOptions = {},
  ): Promise<OperationResult<K>> {
    if (this.#failure !== undefined) throw this.#failure;
    if (options.signal?.aborted === true) throw abortError(operation, options.signal);
    const call: PendingCall = {
      id: this.#nextId++,
      operation,
      args,
      settle: Promise.withResolvers(),
      isAbandoned: false,
    };
    this.#queue.push(call);
    this.#advance();
    try {
      const result = await waitFor(call.settle.promise, operation, { timeoutMs: DEFAULT_CALL_TIMEOUT_MS, ...options });
      return result as OperationResult<K>;
    } finally {
      call.isAbandoned = true;
    }
  }

  /** The connection is known to be lost: what waits fails now, and what comes later too. */
  fail(error: ApplianceError): void {
    this.#failure ??= error;
    this.#opened.reject(this.#failure);
    this.#active?.settle.reject(this.#failure);
    for (const call of this.#queue.splice(0)) call.settle.reject(this.#failure);
  }

  /** Closes after the calls that wait, or, past `deadlineMs`, leaves a thread behind that is stuck inside libvirt. */
  async close(deadlineMs: number = CLOSE_DEADLINE_MS): Promise<void> {
    this.#setBusy(true);
    this.#worker.postMessage({ kind: 'close' } satisfies CallRequest);
    this.#failure ??= new ApplianceError('CLOSED', 'the libvirt connection is closed');
    const deadline = Promise.withResolvers<void>();
    const timer = setTimeout(deadline.resolve, deadlineMs);
    await Promise.race([this.#closed.promise, deadline.promise]);
    clearTimeout(timer);
    this.#terminate();
  }

  /** For a connect that nobody waits for any more: nothing is awaited, and the thread ends when libvirt returns. */
  abandon(): void {
    this.#failure ??= new ApplianceError('CLOSED', 'the libvirt connection is closed');
    this.#terminate();
  }

  /** Takes effect when libvirt returns; the exit guard covers a process that ends before. */
  #terminate(): void {
    void this.#worker.terminate();
    // After terminate(), which makes the thread keep the process alive.
    this.#worker.unref();
  }

  #receive(reply: CallReply): void {
    switch (reply.kind) {
      case 'opened':
        this.#opened.resolve();
        this.#setBusy(false);
        this.#advance();
        return;
      case 'open-failed':
        this.fail(fromWireError(reply.error));
        return;
      case 'closed':
        // The thread ends next.
        return;
      case 'result':
        this.#takeActive(reply.id)?.settle.resolve(reply.result);
        this.#advance();
        return;
      case 'error':
        this.#takeActive(reply.id)?.settle.reject(fromWireError(reply.error));
        this.#advance();
        return;
    }
  }

  #takeActive(id: number): PendingCall | undefined {
    const call = this.#active;
    if (call?.id !== id) return undefined;
    this.#active = undefined;
    this.#setBusy(false);
    return call;
  }

  #advance(): void {
    if (this.#active !== undefined) return;
    let next = this.#queue.shift();
    while (next?.isAbandoned === true) next = this.#queue.shift();
    if (next === undefined) return;
    this.#active = next;
    this.#setBusy(true);
    // Somebody may have given up waiting for it.
    next.settle.promise.catch(() => undefined);
    const { id, operation, args } = next;
    this.#worker.postMessage({ kind: 'call', id, operation, args } satisfies CallRequest);
  }

  /** A call in flight keeps the process alive; an idle connection does not. */
  #setBusy(isBusy: boolean): void {
    if (isBusy) {
      busyWorkers.add(this.#worker);
      this.#worker.ref();
    } else {
      busyWorkers.delete(this.#worker);
      this.#worker.unref();
    }
  }
}

async function waitFor<T>(promise: Promise<T>, operation: string, options: CallOptions): Promise<T> {
  const { signal, timeoutMs = DEFAULT_CALL_TIMEOUT_MS } = options;
  const given = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    const error = new ApplianceError('TIMED_OUT', `libvirt did not answer within ${timeoutMs} ms: ${operation}`, {
      details: { operation, timeoutMs },
    });
    given.reject(error);
  }, timeoutMs);
  const onAbort = (): void => {
    given.reject(abortError(operation, signal));
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, given.promise]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

function abortError(operation: string, signal: AbortSignal | undefined): ApplianceError {
  return new ApplianceError('ABORTED', `${operation} was interrupted`, { cause: signal?.reason });
}

/**
 * Node joins its worker threads when it exits, and a thread inside a C call cannot be stopped: a daemon that hangs would keep
 * the process from ending. Then, and only then, the process ends by _exit(2) after all other exit listeners.
 */
function guardExit(): void {
  if (isExitGuarded) return;
  isExitGuarded = true;
  process.on('exit', (code) => {
    if (busyWorkers.size === 0) return;
    const exit = koffi.load('libc.so.6').func('void _exit(int status)') as (status: number) => void;
    exit(code);
  });
}
