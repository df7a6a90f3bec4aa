// SPDX-License-Identifier: Apache-2.0
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { FastifyReply } from 'fastify';

/** So much may wait for a client that does not read; it is cut off then, and can resume. */
export const MAX_WAITING_BYTES: number = 1024 * 1024;

/** Something is sent at least so often, so that both sides and what is between them see that the other lives. */
const HEARTBEAT_MS = 15_000;

export interface StreamEvent {
  readonly event: string;
  readonly data: unknown;
  readonly id?: string;
}

/** An answer of server-sent events, which stays open. The reply belongs to it from the beginning. */
export class EventStream {
  readonly closed: Promise<void>;
  readonly #response: ServerResponse;
  readonly #heartbeat: NodeJS.Timeout;
  #isOpen = true;

  constructor(reply: FastifyReply) {
    this.#response = reply.raw;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#heartbeat = setInterval(() => this.#write(': here\n\n'), HEARTBEAT_MS);
    this.#heartbeat.unref();
    const onClose = (): void => {
      this.#isOpen = false;
      clearInterval(this.#heartbeat);
      resolve();
    };
    this.#response.on('close', onClose);
    this.#response.on('error', onClose);
    const headers: OutgoingHttpHeaders = { ...(reply.getHeaders() as OutgoingHttpHeaders) };
    reply.hijack();
    this.#response.writeHead(200, {
      ...headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      // Proxies that collect answers would hold the events back.
      'x-accel-buffering': 'no',
    });
    this.#response.flushHeaders();
    if (this.#response.destroyed) onClose();
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** True while what was sent has not been taken: what is not needed can be left out. */
  get isSlow(): boolean {
    return this.#response.writableNeedDrain;
  }

  /** Sends an event. A client that lets too much wait is cut off, except for the last event. */
  send({ event, data, id }: StreamEvent, options: { readonly isLast?: boolean } = {}): void {
    const name = id === undefined ? '' : `id: ${id}\n`;
    // JSON has no line feeds outside of texts, and escapes them within.
    this.#write(`${name}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    if (options.isLast === true) this.end();
    else if (this.#response.writableLength > MAX_WAITING_BYTES) this.#response.destroy();
  }

  end(): void {
    if (this.#isOpen && !this.#response.writableEnded) this.#response.end();
  }

  #write(text: string): void {
    if (this.#isOpen && !this.#response.destroyed && !this.#response.writableEnded) this.#response.write(text);
  }
}
