// SPDX-License-Identifier: Apache-2.0
import type { Logger } from 'pino';
import { localPrincipal } from '../../access/principal.ts';
import { hasCode } from '../../core/errors.ts';
import { unattended } from '../appliance-host.ts';
import type { Appliance } from '../operations.ts';
import type { EventStream } from './event-stream.ts';

/** An export that nobody holds ends after this time. */
const UNHELD_LIMIT_MS = 60_000;

interface Hold {
  readonly streams: Set<EventStream>;
  timer: NodeJS.Timeout | undefined;
}

/**
 * Who holds which export: it lives for as long as somebody does, and a short while before the first. What a command that died had
 * exported is therefore gone with it.
 */
export class ExportHolds {
  readonly #appliance: Appliance;
  readonly #logger: Logger;
  readonly #holds = new Map<string, Hold>();

  constructor(appliance: Appliance, logger: Logger) {
    this.#appliance = appliance;
    this.#logger = logger;
  }

  /** The export was made just now. */
  made(id: string): void {
    const hold: Hold = { streams: new Set(), timer: undefined };
    hold.timer = setTimeout(() => void this.#end(id, hold), UNHELD_LIMIT_MS);
    hold.timer.unref();
    this.#holds.set(id, hold);
  }

  /** The stream holds it until it closes. */
  hold(id: string, stream: EventStream): void {
    const hold = this.#holds.get(id);
    if (hold === undefined) return stream.end();
    clearTimeout(hold.timer);
    hold.streams.add(stream);
    void stream.closed.then(() => {
      hold.streams.delete(stream);
      if (hold.streams.size === 0) return this.#end(id, hold);
    });
  }

  has(id: string): boolean {
    return this.#holds.has(id);
  }

  /** It was ended by somebody. */
  ended(id: string): void {
    const hold = this.#holds.get(id);
    this.#holds.delete(id);
    if (hold === undefined) return;
    clearTimeout(hold.timer);
    for (const stream of hold.streams) stream.end();
  }

  /** Ends them all. */
  async stop(): Promise<void> {
    await Promise.all([...this.#holds].map(([id, hold]) => this.#end(id, hold)));
  }

  async #end(id: string, hold: Hold): Promise<void> {
    if (this.#holds.get(id) !== hold) return;
    this.ended(id);
    try {
      await this.#appliance.unexport({ id }, unattended(localPrincipal()));
      this.#logger.info({ operation: 'export', export: id, outcome: 'ok' }, 'ended: nobody holds it any more');
    } catch (error) {
      if (hasCode(error, 'NBD_EXPORT_UNKNOWN')) return;
      this.#logger.error({ err: error, export: id }, 'the export could not be ended');
    }
  }
}
