// SPDX-License-Identifier: Apache-2.0
import { MAX_PAYLOAD_BYTES } from '../protocol.ts';

/**
 * Everything that a peer can make the server hold, each with its bound. "Cost" of a request is the memory that it pins
 * from its acceptance until its reply is in the kernel: the payload of a read or write, a fixed amount for others.
 */
export interface ServerLimits {
  /** Connections at the same time; further ones are closed at once. */
  readonly maxConnections: number;
  /** Time from the first byte to the end of the handshake, TLS included. */
  readonly handshakeMs: number;
  /** Longest option that is read into memory; longer ones are skipped and refused, above 32 MiB the connection ends. */
  readonly maxOptionBytes: number;
  /** Meta contexts that one connection may select. */
  readonly maxMetaContexts: number;
  /** Largest payload of one read or write, advertised as maximum block size; at least 32 MiB by the specification. */
  readonly maxPayloadBytes: number;
  /** Requests of one connection between acceptance and reply; no more are read from it until one has left. */
  readonly maxRequestsInFlight: number;
  /** Cost of all requests in flight of one connection; one request is always accepted. */
  readonly maxConnectionBytes: number;
  /** Cost of all requests in flight of all connections; one request is always accepted. */
  readonly maxTotalBytes: number;
  /**
   * When somebody waits for `maxTotalBytes` this long, connections are closed that hold a part of it and neither took a
   * reply nor delivered a payload for as long.
   */
  readonly stallMs: number;
  /** Freed reply buffers that are kept for reuse. */
  readonly maxRetainedBytes: number;
}

const MIB = 1024 * 1024;

export const DEFAULT_LIMITS: ServerLimits = {
  maxConnections: 256,
  handshakeMs: 30_000,
  maxOptionBytes: 64 * 1024,
  maxMetaContexts: 64,
  maxPayloadBytes: MAX_PAYLOAD_BYTES,
  maxRequestsInFlight: 256,
  maxConnectionBytes: 64 * MIB,
  maxTotalBytes: 192 * MIB,
  stallMs: 30_000,
  maxRetainedBytes: 32 * MIB,
};

/** Longest option or rejected payload whose bytes are skipped to keep the connection; anything longer ends it. */
export const MAX_SKIPPED_BYTES: number = MAX_PAYLOAD_BYTES;

/** Cost of a block status request: its list of extents and the encoded reply. */
export const BLOCK_STATUS_COST_BYTES: number = MIB;

/** Cost of a request without payload. */
export const BARE_REQUEST_COST_BYTES = 64;
