// SPDX-License-Identifier: Apache-2.0
import type { HostUptime } from '../../core/uptime.ts';

/** Now, by the clock and by the host's uptime, which no setting of the clock moves. */
export interface Moment extends HostUptime {
  readonly wallMs: number;
}

/** A moment that is kept, also through restarts. */
export type Stamp = Moment;

/**
 * How long ago a kept moment was. By the uptime where the host was not started since; otherwise by the clock. Null when the clock
 * says that it lies ahead: then nobody knows.
 */
export function ageMs(stamp: Stamp, now: Moment): number | null {
  if (stamp.bootId === now.bootId && now.uptimeMs >= stamp.uptimeMs) return now.uptimeMs - stamp.uptimeMs;
  const byClockMs = now.wallMs - stamp.wallMs;
  return byClockMs >= 0 ? byClockMs : null;
}
