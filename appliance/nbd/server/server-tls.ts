// SPDX-License-Identifier: Apache-2.0
import type { Socket } from 'node:net';
import { createServer, type SecureVersion, type Server, type TLSSocket } from 'node:tls';
import { ApplianceError } from '../../core/errors.ts';

/** TLS by certificates. PEM everywhere. */
export interface X509Tls {
  readonly kind: 'x509';
  readonly key: string | Buffer;
  readonly certificate: string | Buffer;
  /** With it, clients must show a certificate signed by it. */
  readonly clientAuthority?: string | Buffer;
}

/** TLS by pre-shared keys. */
export interface PskTls {
  readonly kind: 'psk';
  /** The key of a user, or undefined to refuse him. */
  readonly keyOf: (identity: string) => Buffer | undefined;
}

/** How clients must secure their connections (FORCEDTLS); without it, the server speaks plain text only (NOTLS). */
export type ServerTls = X509Tls | PskTls;

const MIN_VERSION: SecureVersion = 'TLSv1.2';

/** Forward secrecy where the peer has it; GnuTLS and OpenSSL name these alike. */
const PSK_CIPHERS =
  'TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:' +
  'ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:' +
  'PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256:PSK-CHACHA20-POLY1305';

/**
 * Runs the server's side of a TLS handshake on a connected socket. On success the socket belongs to the returned one;
 * on failure it is destroyed. Errors: NBD_TLS_FAILED.
 */
export function secure(socket: Socket, tls: ServerTls): Promise<TLSSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  const fail = (cause: unknown): void => {
    socket.destroy();
    reject(new ApplianceError('NBD_TLS_FAILED', 'the TLS handshake failed', { cause }));
  };
  let server: Server;
  try {
    server = tlsServer(tls);
  } catch (error) {
    fail(error);
    return promise;
  }
  // Whoever closes in the middle of the handshake is gone; only afterwards half-open connections are of use.
  socket.allowHalfOpen = false;
  server.on('secureConnection', (secured) => {
    secured.allowHalfOpen = true;
    resolve(secured);
  });
  server.on('tlsClientError', fail);
  socket.once('close', () => fail(undefined));
  // The documented way to hand a connection to a TLS server that does not listen itself.
  server.emit('connection', socket);
  return promise;
}

/** Throws NBD_TLS_FAILED when keys or certificates cannot be used; called before anybody connects. */
export function checkTls(tls: ServerTls): void {
  try {
    tlsServer(tls);
  } catch (cause) {
    throw new ApplianceError('NBD_TLS_FAILED', 'the TLS keys of the server cannot be used', { cause });
  }
}

function tlsServer(tls: ServerTls): Server {
  if (tls.kind === 'psk') {
    const pskCallback = (_socket: TLSSocket, identity: string): Buffer | null => tls.keyOf(identity) ?? null;
    return createServer({ minVersion: MIN_VERSION, ciphers: PSK_CIPHERS, pskCallback });
  }
  const { key, certificate, clientAuthority } = tls;
  const client =
    clientAuthority === undefined ? {} : { ca: clientAuthority, requestCert: true, rejectUnauthorized: true };
  return createServer({ minVersion: MIN_VERSION, key, cert: certificate, ...client });
}
