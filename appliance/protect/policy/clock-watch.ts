// SPDX-License-Identifier: Apache-2.0

/** What was known of the clock when it was looked at last, as it is kept through restarts. */
export interface ClockRecord {
  readonly wallMs: number;
  /** The appliance's lived time at that moment. */
  readonly livedMs: number;
  /** The start of the host's kernel. */
  readonly bootId: string;
  /** By how much it has been set ahead (or back, when negative) of where it was, all settings together; 0 when it is believed. */
  readonly aheadMs: number;
  /** The lived time at which it was set last. */
  readonly setAtLivedMs: number;
}

/** More than clocks are corrected by in passing. */
const TOLERANCE_MS = 10 * 60_000;
/** So long a host may have been off without anybody wondering. */
const MAX_OFF_MS = 45 * 24 * 3_600_000;
/** A clock that nobody sets for so long, lived through, is taken for right. */
export const DOUBT_MS: number = 7 * 24 * 3_600_000;

/**
 * Looks at the clock again. Recovery points have the clock's times: one that leaps ahead makes points of the future, beside which a rule like
 * `within 14d` calls all others old. So while it is ahead of where it was and nobody has lived through the time between, nothing is deleted
 * by a policy. That ends when it is set right again, or has stayed as it is for seven days of lived time. A clock that goes back, and forward
 * again to where it was, needs no doubt: points ahead of it stay, and fill no place.
 */
export function watchClock(
  known: ClockRecord | undefined,
  now: Pick<ClockRecord, 'wallMs' | 'livedMs' | 'bootId'>,
): ClockRecord {
  if (known === undefined) return { ...now, aheadMs: 0, setAtLivedMs: now.livedMs };
  const leapMs = now.wallMs - known.wallMs - Math.max(0, now.livedMs - known.livedMs);
  // Nobody counts how long the host was off.
  const wasOff = now.bootId !== known.bootId && leapMs > 0 && leapMs <= MAX_OFF_MS;
  if (Math.abs(leapMs) > TOLERANCE_MS && !wasOff) {
    const aheadMs = known.aheadMs + leapMs;
    return { ...now, aheadMs: Math.abs(aheadMs) <= TOLERANCE_MS ? 0 : aheadMs, setAtLivedMs: now.livedMs };
  }
  const isBelieved = now.livedMs - known.setAtLivedMs >= DOUBT_MS;
  return { ...now, aheadMs: isBelieved ? 0 : known.aheadMs, setAtLivedMs: known.setAtLivedMs };
}

/** Whether the clock is ahead of what anybody can vouch for. */
export function isClockInDoubt({ aheadMs }: ClockRecord): boolean {
  return aheadMs > 0;
}
