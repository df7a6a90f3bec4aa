// SPDX-License-Identifier: Apache-2.0
import { type ClientRequest, type IncomingMessage, type OutgoingHttpHeaders, request } from 'node:http';
import { ApplianceError, hasCode, systemErrorCode } from '../../core/errors.ts';
import { controlSocketPath, SocketAddress } from '../control-socket.ts';

export interface EndpointRequest {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  readonly body?: unknown;
  readonly headers?: OutgoingHttpHeaders;
}

/** Where a service is reached. */
export interface Endpoint {
  /** For people: a state directory, or a URL. */
  readonly name: string;
  /** One request, sent already. */
  send(options: EndpointRequest): ClientRequest;
  /** What a broken connection means. `during` names what was being done. */
  describe(error: Error, during: string): ApplianceError;
}

/** The service of a state directory, at its socket. */
export class LocalEndpoint implements Endpoint {
  readonly name: string;

  constructor(stateDirectory: string) {
    this.name = stateDirectory;
  }

  send({ method, path, body, headers }: EndpointRequest): ClientRequest {
    const address = SocketAddress.of(controlSocketPath(this.name));
    const content = body === undefined ? undefined : JSON.stringify(body);
    const all = { host: 'understudy', ...headersOf(content), ...headers };
    const outgoing = request({ socketPath: address.address, method, path, headers: all, agent: false });
    outgoing.once('close', () => address[Symbol.dispose]());
    outgoing.end(content);
    return outgoing;
  }

  describe(error: Error, during: string): ApplianceError {
    if (hasCode(error, 'INTERNAL')) return error;
    const details = { stateDirectory: this.name };
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ECONNREFUSED') {
      return new ApplianceError('SERVICE_UNREACHABLE', `no service runs on ${this.name}`, { cause: error, details });
    }
    if (code === 'EACCES' || code === 'EPERM') {
      const message = `the state directory ${this.name} belongs to another user`;
      const hint = 'Run the command as that user, or choose another one with --state or UNDERSTUDY_STATE.';
      return new ApplianceError('SERVICE_UNREACHABLE', message, { cause: error, details, hint });
    }
    return new ApplianceError('SERVICE_UNREACHABLE', `the service ended during ${during}`, {
      cause: error,
      details,
      hint: `Look at its log (${this.name}/serve.log when it was started by \`boot\`), and run the command again.`,
    });
  }
}

export function headersOf(content: string | undefined): OutgoingHttpHeaders {
  if (content === undefined) return {};
  return { 'content-type': 'application/json', 'content-length': Buffer.byteLength(content) };
}

/** The response, or the error of the connection. */
export function responseOf(outgoing: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    outgoing.once('response', resolve);
    outgoing.on('error', reject);
    outgoing.once('close', () => reject(new Error('the connection was closed')));
  });
}
