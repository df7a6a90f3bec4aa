// SPDX-License-Identifier: Apache-2.0
import { X509Certificate } from 'node:crypto';
import { type ClientRequest, request } from 'node:http';
import { isIP, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { ApplianceError, systemErrorCode } from '../../core/errors.ts';
import { isLoopback } from '../loopback.ts';
import { type Endpoint, type EndpointRequest, headersOf } from './endpoint.ts';

/** How long a connection to another machine may take. */
const CONNECT_LIMIT_MS = 15_000;

const FINGERPRINT = /^[0-9A-F]{64}$/;

export interface RemoteEndpointOptions {
  /** `https://HOST:PORT`, or `http://` to this machine. */
  readonly url: string;
  readonly token?: string | undefined;
  /** SHA-256 of the certificate that is expected, with or without colons: nothing else of it counts then. */
  readonly fingerprint?: string | undefined;
  /** Certificates that are trusted instead of those of the system, as PEM. */
  readonly ca?: string | undefined;
}

/**
 * A service somewhere in the network. The certificate is checked before the first byte of a request is sent: a token goes to nobody
 * else. Errors besides those of `Endpoint`: CERTIFICATE_UNTRUSTED.
 */
export class RemoteEndpoint implements Endpoint {
  readonly name: string;
  readonly #url: URL;
  readonly #options: RemoteEndpointOptions;
  readonly #fingerprint: string | undefined;

  /** @throws ApplianceError BAD_ARGUMENT */
  constructor(options: RemoteEndpointOptions) {
    this.#options = options;
    this.#url = parseUrl(options.url);
    this.name = this.#url.origin;
    this.#fingerprint = options.fingerprint === undefined ? undefined : parseFingerprint(options.fingerprint);
  }

  send({ method, path, body, headers }: EndpointRequest): ClientRequest {
    const { token } = this.#options;
    const content = body === undefined ? undefined : JSON.stringify(body);
    const own = {
      ...headersOf(content),
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...headers,
    };
    const { hostname, port } = this.#url;
    const host = hostname.replace(/^\[(.*)\]$/, '$1');
    const isSecure = this.#url.protocol === 'https:';
    const outgoing = request({
      host,
      port: port === '' ? defaultPort(this.#url) : Number(port),
      method,
      path,
      headers: { host: this.#url.host, ...own },
      ...(isSecure
        ? {
            createConnection: (_options, onCreate) => {
              this.#connect(host, onCreate);
              return undefined;
            },
          }
        : { agent: false }),
    });
    outgoing.end(content);
    return outgoing;
  }

  describe(error: Error, during: string): ApplianceError {
    if (error instanceof ApplianceError) return error;
    const reasons: Readonly<Record<string, string>> = {
      ECONNREFUSED: 'nothing listens there',
      ENOTFOUND: 'there is no such host',
      EAI_AGAIN: 'its name cannot be resolved now',
      EHOSTUNREACH: 'the host cannot be reached',
      ENETUNREACH: 'its network cannot be reached',
      ETIMEDOUT: 'it does not answer',
    };
    const reason = reasons[systemErrorCode(error) ?? ''];
    const message =
      reason === undefined ? `the connection to ${this.name} broke during ${during}` : `${this.name}: ${reason}`;
    return new ApplianceError('SERVICE_UNREACHABLE', message, {
      cause: error,
      details: { server: this.name },
      hint: 'Check that the service runs there with --listen, and the way to it.',
    });
  }

  #connect(host: string, onCreate: (error: Error | null, socket: Socket) => void): void {
    const { ca } = this.#options;
    const options: ConnectionOptions = {
      host,
      port: Number(this.#url.port === '' ? defaultPort(this.#url) : this.#url.port),
      // Checked here, once it is known: what is wrong can be said then, with the fingerprint.
      rejectUnauthorized: false,
      ALPNProtocols: ['http/1.1'],
      ...(ca === undefined ? {} : { ca }),
      ...(isIP(host) === 0 ? { servername: host } : {}),
    };
    const socket = connectTls(options);
    const fail = (error: Error): void => {
      clearTimeout(limit);
      socket.destroy();
      onCreate(error, socket);
    };
    const limit = setTimeout(() => {
      fail(new ApplianceError('TIMED_OUT', `${this.name} did not answer within ${CONNECT_LIMIT_MS / 1000} s`));
    }, CONNECT_LIMIT_MS);
    socket.once('error', fail);
    socket.once('secureConnect', () => {
      const refused = this.#refusalOf(socket);
      if (refused !== undefined) return fail(refused);
      clearTimeout(limit);
      socket.off('error', fail);
      onCreate(null, socket);
    });
  }

  #refusalOf(socket: TLSSocket): ApplianceError | undefined {
    const certificate = socket.getPeerX509Certificate();
    const fingerprint = certificate?.fingerprint256 ?? '';
    const expected = this.#fingerprint;
    const details = { server: this.name, fingerprint };
    if (expected !== undefined) {
      if (bare(fingerprint) === expected) return undefined;
      const message = `${this.name} has another certificate than expected: its fingerprint is ${fingerprint}`;
      const hint = 'Has it been renewed? Somebody may be in between: ask whoever runs the appliance before you go on.';
      return new ApplianceError('CERTIFICATE_UNTRUSTED', message, { details, hint });
    }
    if (socket.authorized) return undefined;
    const reason = String(socket.authorizationError);
    const message = `the certificate of ${this.name} is not trusted (${reason}); its fingerprint is ${fingerprint}`;
    return new ApplianceError('CERTIFICATE_UNTRUSTED', message, { details: { ...details, reason } });
  }
}

/** @throws ApplianceError BAD_ARGUMENT */
export function checkAuthority(text: string): string {
  try {
    new X509Certificate(text);
    return text;
  } catch (cause) {
    throw new ApplianceError('BAD_ARGUMENT', 'the file of --ca holds no certificate (PEM)', { cause });
  }
}

function parseUrl(text: string): URL {
  const url = URL.parse(text);
  const isPlain = url?.protocol === 'http:' && isLoopback(url.hostname);
  const isBare =
    url !== null && (url.pathname === '/' || url.pathname === '') && url.search === '' && url.username === '';
  if (url !== null && isBare && (url.protocol === 'https:' || isPlain)) return url;
  throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is not https://HOST:PORT`, {
    hint: 'Without encryption (http://) only a service on this machine is asked.',
  });
}

function parseFingerprint(text: string): string {
  const digits = bare(text);
  if (FINGERPRINT.test(digits)) return digits;
  throw new ApplianceError('BAD_ARGUMENT', 'a fingerprint is the SHA-256 of a certificate: 64 hexadecimal digits');
}

function bare(fingerprint: string): string {
  return fingerprint
    .replace(/^sha256:/i, '')
    .replaceAll(':', '')
    .toUpperCase();
}

function defaultPort({ protocol }: URL): number {
  return protocol === 'https:' ? 443 : 80;
}
