// SPDX-License-Identifier: Apache-2.0
import type { ErrorCode } from '../../core/error-codes.ts';
import type { ApplianceError } from '../../core/errors.ts';
import { retryDelayMs } from './retry.ts';

/** Errors that say something of the hypervisor, and not of one machine. */
const HOST_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'LIBVIRT_UNAVAILABLE',
  'LIBVIRT_CONNECT_FAILED',
  'LIBVIRT_CONNECTION_LOST',
  'LIBVIRT_DENIED',
  'SSH_FAILED',
]);

export function isHostError({ code }: ApplianceError): boolean {
  return HOST_CODES.has(code);
}

/** A hypervisor that is back is noticed within this. */
const MAX_DELAY_MS = 5 * 60_000;

/**
 * One hypervisor. While it does not answer one question is asked now and then, for its machines, and nothing else is begun on it;
 * once they come, everything that is due runs, each machine once.
 */
export class HostState {
  readonly uri: string;
  running = 0;
  isReading = false;
  /** Its machines have been read at least once. */
  isKnown = false;
  /** In uptime: its machines are read again. */
  readAtMs = Number.NEGATIVE_INFINITY;
  #isStale = false;
  #attempts = 0;
  #problem: string | null = null;

  constructor(uri: string) {
    this.uri = uri;
  }

  get problem(): string | null {
    return this.#problem;
  }

  /** Its machines are read again at once; once more, where that is under way. */
  refresh(): void {
    this.#isStale = this.isReading;
    if (!this.isReading) this.readAtMs = Number.NEGATIVE_INFINITY;
  }

  answered(uptimeMs: number, everyMs: number): void {
    this.isKnown = true;
    this.#attempts = 0;
    this.#problem = null;
    this.readAtMs = this.#isStale ? Number.NEGATIVE_INFINITY : uptimeMs + everyMs;
    this.#isStale = false;
  }

  failed(error: ApplianceError, uptimeMs: number): void {
    this.#attempts += 1;
    this.#problem = error.message;
    this.readAtMs = uptimeMs + Math.min(MAX_DELAY_MS, retryDelayMs('transient', this.#attempts, this.uri));
  }
}
