// SPDX-License-Identifier: Apache-2.0
import { AuditLog } from '../audit/audit-log.ts';
import type { AuditEntry, AuditEvent } from '../audit/entry.ts';
import { AuditForwarder, deliveryTo } from '../audit/forward.ts';
import type { Configuration } from '../config/configuration.ts';
import { derivedKey } from '../config/secret-box.ts';
import type { Clock } from '../core/clock.ts';

export interface ApplianceAuditOptions {
  readonly stateDirectory: string;
  readonly configuration: Configuration;
  readonly clock: Clock;
  readonly onNotice: (sentence: string) => void;
}

/** How long the end of a process waits for a log host. */
const DRAIN_LIMIT_MS = 2_000;

/** The audit log of an appliance, opened with the first entry or question, and its way to a log host. */
export class ApplianceAudit implements AsyncDisposable {
  readonly #options: ApplianceAuditOptions;
  readonly #forwarder: AuditForwarder;
  readonly #listeners = new Set<(entry: AuditEntry) => void>();
  #log: Promise<AuditLog> | undefined;

  constructor(options: ApplianceAuditOptions) {
    this.#options = options;
    const { settings } = options.configuration;
    this.#forwarder = new AuditForwarder(deliveryTo(settings.value('audit.syslog')), options.onNotice);
    settings.onChange('audit.syslog', () => {
      this.#forwarder.deliver = deliveryTo(settings.value('audit.syslog'));
    });
  }

  /** Errors as `AuditLog.open`; what was wrong may be repaired, so the next call tries again. */
  log(): Promise<AuditLog> {
    if (this.#log !== undefined) return this.#log;
    const { stateDirectory, clock, configuration, onNotice } = this.#options;
    const opening = AuditLog.open({
      stateDirectory,
      clock,
      key: derivedKey(configuration.keys.current, 'audit anchor'),
      onLarge: (sizeBytes) => {
        const size = `${Math.round(sizeBytes / 2 ** 20)} MiB`;
        onNotice(`the audit log takes ${size}: move its oldest archived segments to another place`);
      },
      onEntry: (entry) => {
        this.#forwarder.send(entry);
        for (const listener of this.#listeners) listener(entry);
      },
    });
    this.#log = opening;
    opening.catch(() => {
      if (this.#log === opening) this.#log = undefined;
    });
    return opening;
  }

  /** Called with each entry once it is durable. Must not throw or wait. */
  onEntry(listener: (entry: AuditEntry) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Errors as `AuditLog.record`. */
  async record(event: AuditEvent): Promise<AuditEntry> {
    return (await this.log()).record(event);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const [log] = await Promise.allSettled([this.#log]);
    if (log.status === 'fulfilled') await log.value?.[Symbol.asyncDispose]();
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, DRAIN_LIMIT_MS);
    });
    await Promise.race([this.#forwarder.drained(), limit]);
    clearTimeout(timer);
    await this.#forwarder[Symbol.asyncDispose]();
  }
}
