// SPDX-License-Identifier: Apache-2.0
import { createServer as createHttpServer, type RequestListener, type Server } from 'node:http';
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { ApplianceError, systemErrorCode } from '../../core/errors.ts';
import { parseListenAddress } from '../../recover/listen-address.ts';
import { isLoopback } from '../loopback.ts';
import { MAX_CONNECTIONS, SERVER_LIMITS } from './server-limits.ts';
import { CertificateSource, type CertificateSourceOptions } from './tls/certificate-source.ts';

/** Where the service listens besides its unix socket. */
export interface NetworkOptions {
  /** HOST:PORT for HTTPS; IPv6 hosts in brackets; port 0 for any free one. */
  readonly https?: string | undefined;
  /** HOST:PORT for HTTP without encryption, on a loopback address only. */
  readonly http?: string | undefined;
  readonly certificate: CertificateSourceOptions;
}

/** A listener that is open. */
export interface Listener extends AsyncDisposable {
  readonly url: string;
  /** SHA-256 of the certificate; null for HTTP. */
  readonly fingerprint: string | null;
}

type Build = (scheme: 'http' | 'https', createServer: (handler: RequestListener) => Server) => Promise<FastifyInstance>;

/** Opens the listeners that are asked for. @throws ApplianceError BAD_ARGUMENT, LISTEN_FAILED, CERTIFICATE_INVALID, … */
export async function listenOnNetwork(options: NetworkOptions, build: Build): Promise<readonly Listener[]> {
  await using scope = new AsyncDisposableStack();
  const listeners: Listener[] = [];
  if (options.http !== undefined) listeners.push(scope.use(await listenHttp(options.http, build)));
  if (options.https !== undefined) listeners.push(scope.use(await listenHttps(options.https, options, build)));
  scope.move();
  return listeners;
}

async function listenHttp(text: string, build: Build): Promise<Listener> {
  const { host } = addressOf(text);
  if (!isLoopback(host)) {
    throw new ApplianceError(
      'BAD_ARGUMENT',
      `without encryption the service listens on this machine only, not on ${host}`,
      {
        hint: 'Use 127.0.0.1 or [::1], or --listen for HTTPS.',
      },
    );
  }
  const app = await build('http', (handler) => createHttpServer(SERVER_LIMITS, handler));
  const url = await listen(app, text, 'http');
  return { url, fingerprint: null, [Symbol.asyncDispose]: () => closeApp(app) };
}

async function listenHttps(text: string, options: NetworkOptions, build: Build): Promise<Listener> {
  addressOf(text);
  const source = await CertificateSource.open(options.certificate);
  try {
    const { certificate: cert, key } = source.current;
    let secure: HttpsServer | undefined;
    const app = await build('https', (handler) => {
      secure = createHttpsServer(
        { ...SERVER_LIMITS, cert, key, minVersion: 'TLSv1.2', ALPNProtocols: ['http/1.1'] },
        handler,
      );
      return secure as unknown as Server;
    });
    source.onChange((pair) =>
      secure?.setSecureContext({ cert: pair.certificate, key: pair.key, minVersion: 'TLSv1.2' }),
    );
    const url = await listen(app, text, 'https');
    return {
      url,
      get fingerprint() {
        return source.current.fingerprint;
      },
      [Symbol.asyncDispose]: async () => {
        source[Symbol.dispose]();
        await closeApp(app);
      },
    };
  } catch (error) {
    source[Symbol.dispose]();
    throw error;
  }
}

function addressOf(text: string): { readonly host: string; readonly port: number } {
  const address = parseListenAddress(text);
  return 'host' in address ? address : { host: '', port: 0 };
}

async function listen(app: FastifyInstance, text: string, scheme: 'http' | 'https'): Promise<string> {
  const { host, port } = addressOf(text);
  await app.ready();
  const { server } = app;
  server.maxConnections = MAX_CONNECTIONS;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, text)));
    server.listen({ host, port }, resolve);
  });
  const bound = (server.address() as AddressInfo).port;
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${bound}`;
}

function listenError(error: Error, text: string): ApplianceError {
  const code = systemErrorCode(error);
  const reasons: Readonly<Record<string, string>> = {
    EADDRINUSE: 'something else listens there',
    EADDRNOTAVAIL: 'this machine has no such address',
    EACCES: 'this user may not listen there',
    ENOTFOUND: 'there is no such host',
  };
  const reason = reasons[code ?? ''] ?? error.message;
  return new ApplianceError('LISTEN_FAILED', `cannot listen on ${text}: ${reason}`, { cause: error });
}

/** Stops listening and lets go of every client. */
export async function closeApp(app: FastifyInstance): Promise<void> {
  await closeServer(app.server);
  await app.close();
}

/** What is still being sent when the service ends may take so long. */
const FLUSH_LIMIT_MS = 2_000;

/** Lets what is being sent arrive, shortly, and cuts off the rest. */
async function closeServer(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  server.closeIdleConnections();
  const timer = setTimeout(() => server.closeAllConnections(), FLUSH_LIMIT_MS);
  await closed;
  clearTimeout(timer);
}
