// SPDX-License-Identifier: Apache-2.0
import type { ServerOptions } from 'node:http';

/** A path may hold the longest parameter, percent-encoded. */
const MAX_HEADER_BYTES: number = 32 * 1024;

/** A request has to be there within this time, and its headers within that: nobody keeps a connection busy by sending slowly. */
const REQUEST_LIMIT_MS = 30_000;
const HEADERS_LIMIT_MS = 10_000;
const IDLE_LIMIT_MS = 60_000;
const CHECK_INTERVAL_MS = 5_000;

export const SERVER_LIMITS: ServerOptions = {
  maxHeaderSize: MAX_HEADER_BYTES,
  requestTimeout: REQUEST_LIMIT_MS,
  headersTimeout: HEADERS_LIMIT_MS,
  keepAliveTimeout: IDLE_LIMIT_MS,
  connectionsCheckingInterval: CHECK_INTERVAL_MS,
};

/** Connections from the network: as many listeners to events as there may be, and some for requests. */
export const MAX_CONNECTIONS = 2_000;
