// SPDX-License-Identifier: Apache-2.0
import type { Catalog } from '../../catalog/catalog.ts';
import type { Clock } from '../../core/clock.ts';
import type { HostUptime } from '../../core/uptime.ts';
import { type ClockRecord, DOUBT_MS, isClockInDoubt, watchClock } from '../../protect/policy/clock-watch.ts';
import type { Repository } from '../../repository/repository.ts';

const RECORD = 'policy-clock';
const DAY_MS = 86_400_000;
/** A record that says about the same is not written again. */
const RECORD_INTERVAL_MS = 600_000;

/** Watches the clock for `retain`, through restarts; see `watchClock`. */
export class ClockDoubt {
  readonly #storage: { readonly catalog: Catalog; readonly repository: Repository };
  readonly #clock: Clock;
  readonly #uptime: () => HostUptime;
  #known: ClockRecord | undefined;
  #kept: ClockRecord | undefined;

  constructor(
    storage: { readonly catalog: Catalog; readonly repository: Repository },
    clock: Clock,
    uptime: () => HostUptime,
  ) {
    this.#storage = storage;
    this.#clock = clock;
    this.#uptime = uptime;
  }

  /** Looks at the clock. Why nothing may be deleted by a policy now, in words; null when it may. Errors as of catalog and lived time. */
  async problem(): Promise<string | null> {
    const { catalog, repository } = this.#storage;
    this.#known ??= (await catalog.records<ClockRecord>('session/')).get(RECORD);
    const livedMs = await repository.guards.livedMs();
    const now = { wallMs: this.#clock.nowMs(), livedMs, bootId: this.#uptime().bootId };
    const found = watchClock(this.#known, now);
    this.#known = found;
    await this.#keep(found);
    if (!isClockInDoubt(found)) return null;
    const days = Math.max(0, Math.ceil((found.setAtLivedMs + DOUBT_MS - livedMs) / DAY_MS));
    const ahead = Math.round(found.aheadMs / 3_600_000);
    return `the clock went forward by ${ahead} hours that nobody lived through: policies delete nothing until it is set right, or for ${days} more days`;
  }

  async #keep(found: ClockRecord): Promise<void> {
    const kept = this.#kept;
    const isSame = kept !== undefined && kept.aheadMs === found.aheadMs;
    if (isSame && kept.bootId === found.bootId && Math.abs(found.livedMs - kept.livedMs) < RECORD_INTERVAL_MS) return;
    await this.#storage.repository.guards.beginRecord();
    await this.#storage.catalog.putRecord('session/', RECORD, found);
    this.#kept = found;
  }
}
