// SPDX-License-Identifier: Apache-2.0
import { toError } from '../../core/errors.ts';
import { PolicyEngine } from '../../protect/policy/policy-engine.ts';
import { type PolicyPortsParts, policyPorts } from './policy-ports.ts';

/** Steps are at least this far apart, and at most so far: a clock that was set shows itself soon. */
const LEAST_STEP_MS = 250;
const MOST_STEP_MS = 30_000;

/** The engine with a timer: what the service runs beside everything else. */
export class PolicyScheduler implements AsyncDisposable {
  readonly engine: PolicyEngine;
  readonly #parts: Omit<PolicyPortsParts, 'onChange'>;
  readonly #ends: (() => void)[] = [];
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  private constructor(parts: Omit<PolicyPortsParts, 'onChange'>) {
    this.#parts = parts;
    this.engine = new PolicyEngine(policyPorts({ ...parts, onChange: () => this.#stepIn(LEAST_STEP_MS) }));
  }

  /** Learns what is kept, and begins. Errors as of the catalog. */
  static async start(parts: Omit<PolicyPortsParts, 'onChange'>): Promise<PolicyScheduler> {
    const scheduler = new PolicyScheduler(parts);
    await scheduler.engine.open();
    const { configuration, book } = parts;
    const soon = (): void => {
      scheduler.engine.refresh();
      scheduler.#stepIn(LEAST_STEP_MS);
    };
    scheduler.#ends.push(book.collection.onChange(soon), configuration.hypervisors.onChange(soon));
    scheduler.#stepIn(LEAST_STEP_MS);
    return scheduler;
  }

  /** Ends what runs on behalf of policies, and settles when nothing of it does. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    for (const end of this.#ends) end();
    await this.engine.close();
  }

  #stepIn(ms: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#step(), ms).unref();
  }

  #step(): void {
    try {
      const wakeAtMs = this.engine.step();
      const nowMs = this.#parts.uptime().uptimeMs;
      this.#stepIn(Math.min(MOST_STEP_MS, Math.max(LEAST_STEP_MS, wakeAtMs - nowMs)));
    } catch (error) {
      // /proc that cannot be read, a setting that cannot: the next step tries again.
      this.#parts.onNotice(`the schedule could not be looked at: ${toError(error).message}`);
      this.#stepIn(MOST_STEP_MS);
    }
  }
}
