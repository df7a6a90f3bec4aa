// SPDX-License-Identifier: Apache-2.0
import type { AuditEvent } from '../../../audit/entry.ts';
import type { Clock } from '../../../core/clock.ts';
import { hasCode } from '../../../core/errors.ts';
import { type AuditRecorder, outcomeOf } from '../../audited-appliance.ts';

/** Refused logins that are written down in a minute: whoever guesses must not be able to fill the disk. */
const MAX_REFUSED_PER_MINUTE = 60;
const MINUTE_MS = 60_000;

/** Logins in the audit log: all that succeeded, and of those that were refused as many as tell what goes on. */
export class LoginLog {
  readonly #recorder: AuditRecorder;
  readonly #clock: Clock;
  #minute = 0;
  #refused = 0;

  constructor(recorder: AuditRecorder, clock: Clock) {
    this.#recorder = recorder;
    this.#clock = clock;
  }

  /** Without an error it succeeded. Attempts that had to wait, or lack the code only, are none. */
  async write(event: AuditEvent, error: unknown): Promise<void> {
    if (error === undefined) {
      await this.#recorder.record(event);
      return;
    }
    if (!hasCode(error, 'LOGIN_FAILED', 'SIGN_ON_FAILED') || !this.#isWithinLimit()) return;
    await this.#recorder.record({ ...event, outcome: 'denied', code: outcomeOf(error).code });
  }

  #isWithinLimit(): boolean {
    const minute = Math.floor(this.#clock.elapsedMs() / MINUTE_MS);
    if (minute !== this.#minute) this.#refused = 0;
    this.#minute = minute;
    this.#refused += 1;
    return this.#refused <= MAX_REFUSED_PER_MINUTE;
  }
}
