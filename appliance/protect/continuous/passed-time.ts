// SPDX-License-Identifier: Apache-2.0
import type { HostUptime } from '../../core/uptime.ts';

/** How much time has passed since something, as far as the kernel knows, which no setting of a clock changes. */
export interface PassedTime extends HostUptime {
  readonly passedMs: number;
}

/** An order of the operator to let go of a machine. */
export interface Pause {
  readonly reason: string;
  /** Left out: until it is resumed. */
  readonly forMs?: number;
  /** ISO 8601, by the clock that somebody may set. */
  readonly at: string;
  readonly since: HostUptime;
}

/**
 * As `before`, and now. What passed while the host was off does not count: it is never more than what passed. Pure.
 */
export function passedSince(before: PassedTime, now: HostUptime): PassedTime {
  const isSameStart = before.bootId === now.bootId && now.uptimeMs >= before.uptimeMs;
  return { ...now, passedMs: before.passedMs + (isSameStart ? now.uptimeMs - before.uptimeMs : 0) };
}

/**
 * How much longer a pause lasts; undefined until it is resumed, 0 when it is over. Where the host was started anew the clock
 * counts, and it is never longer than it was meant to be. Pure.
 */
export function restOfPause({ forMs, at, since }: Pause, nowMs: number, now: HostUptime): number | undefined {
  if (forMs === undefined) return undefined;
  const passedMs =
    since.bootId === now.bootId && now.uptimeMs >= since.uptimeMs
      ? now.uptimeMs - since.uptimeMs
      : nowMs - Date.parse(at);
  return Math.min(forMs, Math.max(0, forMs - passedMs));
}
