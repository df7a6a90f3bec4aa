// SPDX-License-Identifier: Apache-2.0
import { BASE_ALLOCATION } from '../protocol.ts';

/** Key material for TLS; what the target's own policy names comes first. The server is always verified. */
export interface NbdTlsOptions {
  /** PEM texts. Without `ca`, Node's own roots decide. */
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** Directory with `ca-cert.pem` and optionally `client-cert.pem`, `client-key.pem` (QEMU's and nbdkit's layout). */
  readonly certificatesDir?: string;
  /** File of `identity:hex key` lines. */
  readonly pskFile?: string;
  /** Default: the local user's name. */
  readonly pskIdentity?: string;
  readonly hostname?: string;
}

/** What happens when the connection to the server is lost. Only reads, block status and cache requests are sent again. */
export interface NbdReconnectOptions {
  /** How often one request is sent again, at most. */
  readonly requestAttempts: number;
  /** How long a lost server is waited for before everything that waits fails. */
  readonly totalMs: number;
  /** Pause before the second and each later attempt to connect; doubles up to `maximumDelayMs`. */
  readonly delayMs: number;
  readonly maximumDelayMs: number;
}

export interface NbdClientOptions {
  /** Contexts that must be there, by their exact names; NBD_META_CONTEXT_MISSING otherwise. */
  readonly metaContexts?: readonly string[];
  /** Contexts that are used when the server has them. Default: `base:allocation`. */
  readonly optionalMetaContexts?: readonly string[];
  /** Most connections to open when the server offers multi-conn; they are opened as load asks for them. */
  readonly connections?: number;
  readonly tls?: NbdTlsOptions;
  /** From a request's first byte sent to its last byte answered; its connection is closed when it passes. */
  readonly requestTimeoutMs?: number;
  /** For one connection from the start to the end of the handshake. */
  readonly connectTimeoutMs?: number;
  /** Ends the connecting (not the device that came of it) with ABORTED. */
  readonly signal?: AbortSignal;
  readonly reconnect?: Partial<NbdReconnectOptions> | false;
  /** Requests and payload bytes in flight over all connections; more wait in order. */
  readonly maximumRequests?: number;
  readonly maximumInFlightBytes?: number;
  /** For tests of servers: `false` sends requests that the server's limits and flags forbid. */
  readonly strict?: boolean;
  /** For tests of fallbacks: `simple` and `structured` keep the client from offering more. */
  readonly replies?: 'simple' | 'structured' | 'extended';
}

export const DEFAULT_CONNECTIONS = 4;
export const DEFAULT_REQUEST_TIMEOUT_MS = 60_000;
export const DEFAULT_CONNECT_TIMEOUT_MS = 15_000;
export const DEFAULT_MAXIMUM_REQUESTS = 128;
export const DEFAULT_MAXIMUM_IN_FLIGHT_BYTES: number = 32 * 1024 * 1024;
export const DEFAULT_RECONNECT: NbdReconnectOptions = {
  requestAttempts: 3,
  totalMs: 30_000,
  delayMs: 100,
  maximumDelayMs: 3_000,
};
export const DEFAULT_OPTIONAL_CONTEXTS: readonly string[] = [BASE_ALLOCATION];
