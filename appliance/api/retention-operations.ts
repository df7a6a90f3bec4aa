// SPDX-License-Identifier: Apache-2.0

/** What can be asked about how long recovery points stay. */

/** A hold or a lock that is in force. */
export interface GuardReport {
  /** In the operator's words; empty where nobody gave one. */
  readonly reason: string;
  /** Null for one that cannot be read; then it is in force. */
  readonly since: string | null;
  /** Null for a hold without a date. */
  readonly until: string | null;
}

export interface HoldParams {
  /** A recovery point; a moment of a journal cannot be held. */
  readonly point: string;
  readonly reason: string;
  /** A time (`2026-12-24`, `2026-12-24T18:00Z`); until `release` when left out. */
  readonly until?: string;
}

export interface LockParams {
  readonly point: string;
  readonly until: string;
}

/** What guards a point after the call. */
export interface PointGuardsReport {
  readonly point: string;
  readonly machine: string;
  readonly hold: GuardReport | null;
  readonly lock: GuardReport | null;
}

/** Which points stay: `docs/retention.md`. */
export interface RetentionParams {
  /** A machine, by name or id, or … */
  readonly machine?: string;
  /** … all of them, each by itself. */
  readonly all?: boolean;
  readonly keepLast?: number;
  readonly keepHourly?: number;
  readonly keepDaily?: number;
  readonly keepWeekly?: number;
  readonly keepMonthly?: number;
  readonly keepYearly?: number;
  /** `14d`, `12h`, `8w`, `6mo`, `1y6mo`. */
  readonly keepWithin?: string;
  /** An IANA name; default: that of the process that answers. */
  readonly timeZone?: string;
}

export interface RetentionApplyParams extends RetentionParams {
  /** The `plan` of a preview: CONFIRMATION_NEEDED, and nothing deleted, when other points would go now. */
  readonly plan?: string;
}

export interface RetentionPointReport {
  readonly id: string;
  readonly machine: string;
  readonly machineId: string;
  readonly createdAt: string;
  readonly keep: boolean;
  /** Every reason why it stays; of one that goes, why each part of the rule lets it go. */
  readonly reasons: readonly string[];
}

export interface RetentionReport {
  readonly timeZone: string;
  /** The clock by which points ahead of it were told. */
  readonly now: string;
  readonly kept: number;
  readonly going: number;
  /** Names the set of points that go. */
  readonly plan: string;
  /** Machines by name, the points of each newest first. */
  readonly points: readonly RetentionPointReport[];
}

export interface RetentionApplyReport extends RetentionReport {
  readonly deleted: readonly { readonly point: string; readonly machine: string }[];
  /** Points that were to go and stay, because somebody began to use, hold or lock them meanwhile. */
  readonly spared: readonly { readonly point: string; readonly machine: string; readonly reason: string }[];
  /** Until then `undelete` brings them back; null when none was deleted. */
  readonly recoverableUntil: string | null;
}
