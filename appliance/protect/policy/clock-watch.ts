// SPDX-License-Identifier: Apache-2.0

/** What was known of the clock when it was looked at last, as it is kept through restarts. */
export interface ClockRecord {
  readonly wallMs: number;
  /** The appliance's lived time at that moment. */
  readonly livedMs: number;
  /** The start of the host's kernel. */
  readonly bootId: string;
  /** Since when the clock cannot be believed: it went forward by more than was lived through. Null when it can. */
  readonly doubt: { readonly sinceLivedMs: number; readonly aheadMs: number } | null;
}

/** More than clocks are corrected by in passing. */
const TOLERANCE_MS = 10 * 60_000;
/** So long a host may have been off without anybody wondering. */
const MAX_OFF_MS = 45 * 24 * 3_600_000;
/** A clock that nobody corrects for so long, lived through, is taken for right. */
export const DOUBT_MS: number = 7 * 24 * 3_600_000;

/**
 * Looks at the clock again. Recovery points have the clock's times: one that leaps ahead makes points of the future, beside which a rule like
 * `within 14d` calls all others old. So while a leap is in doubt, nothing is deleted by a policy. The doubt ends when the clock is set
 * right again, or has stayed as it is for seven days of lived time. A clock that goes back needs no doubt: points ahead of it
 * stay, and fill no place.
 */
export function watchClock(known: ClockRecord | undefined, now: Omit<ClockRecord, 'doubt'>): ClockRecord {
  if (known === undefined) return { ...now, doubt: null };
  const livedMs = Math.max(0, now.livedMs - known.livedMs);
  const leapMs = now.wallMs - known.wallMs - livedMs;
  const allowedMs = now.bootId === known.bootId ? TOLERANCE_MS : MAX_OFF_MS;
  const isExplained = leapMs <= allowedMs;
  const before = known.doubt;
  if (before === null) {
    return { ...now, doubt: isExplained ? null : { sinceLivedMs: now.livedMs, aheadMs: leapMs } };
  }
  const aheadMs = before.aheadMs + (Math.abs(leapMs) <= TOLERANCE_MS ? 0 : leapMs);
  if (aheadMs <= TOLERANCE_MS) return { ...now, doubt: null };
  if (!isExplained) return { ...now, doubt: { sinceLivedMs: now.livedMs, aheadMs } };
  const isOver = now.livedMs - before.sinceLivedMs >= DOUBT_MS;
  return { ...now, doubt: isOver ? null : { ...before, aheadMs } };
}
