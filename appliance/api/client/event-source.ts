// SPDX-License-Identifier: Apache-2.0
import type { ClientRequest, IncomingMessage } from 'node:http';
import { createParser } from 'eventsource-parser';
import { ApplianceError } from '../../core/errors.ts';
import { type Endpoint, responseOf } from './endpoint.ts';
import { MAX_ANSWER_BYTES, readAnswer } from './json-answer.ts';

export interface ServerEvent {
  readonly id: string | undefined;
  readonly event: string;
  readonly data: unknown;
}

/** A stream of server-sent events. Close it, or read it to its end. */
export class EventSource {
  readonly #outgoing: ClientRequest;
  readonly #response: IncomingMessage;

  private constructor(outgoing: ClientRequest, response: IncomingMessage) {
    this.#outgoing = outgoing;
    this.#response = response;
  }

  /** Settles when the service has begun to answer. @throws its refusal; what broke the connection */
  static async open(
    endpoint: Endpoint,
    options: { readonly path: string; readonly lastEventId?: string | undefined },
  ): Promise<EventSource> {
    const { path, lastEventId } = options;
    const headers = {
      accept: 'text/event-stream',
      ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }),
    };
    const outgoing = endpoint.send({ method: 'GET', path, headers });
    const response = await responseOf(outgoing);
    if (response.statusCode !== 200) await refuse(response);
    return new EventSource(outgoing, response);
  }

  close(): void {
    this.#outgoing.destroy();
  }

  /** The events. Ends where the service ended the stream. @throws what broke the connection; INTERNAL for nonsense */
  async *events(): AsyncGenerator<ServerEvent> {
    const response: AsyncIterable<Buffer> = this.#response;
    const waiting: ServerEvent[] = [];
    const parser = createParser({
      onEvent: ({ id, event = 'message', data }) => waiting.push({ id, event, data: parsed(data) }),
      maxBufferSize: MAX_ANSWER_BYTES,
    });
    const decoder = new TextDecoder();
    for await (const bytes of response) {
      parser.feed(decoder.decode(bytes, { stream: true }));
      yield* waiting.splice(0);
    }
  }
}

async function refuse(response: IncomingMessage): Promise<never> {
  const { status } = await readAnswer(response);
  throw new ApplianceError('INTERNAL', `the service answered with status ${status} instead of events`);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ApplianceError('INTERNAL', 'the service sent an event that is not JSON', { cause });
  }
}
