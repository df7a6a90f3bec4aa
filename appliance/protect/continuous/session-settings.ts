// SPDX-License-Identifier: Apache-2.0
import { DEFAULT_FOLD_LIMITS, type FoldLimits } from '../../volume/fold-schedule.ts';
import { DEFAULT_LATENCY_LIMITS, type LatencyLimits } from './append-latency.ts';
import type { Durability } from './journal-target.ts';

/** What a session may be told, and how it keeps time. All in milliseconds. */
export interface SessionSettings extends FoldLimits {
  /** 0: every write. Otherwise what changed, so often. */
  readonly intervalMs: number;
  readonly durability: Durability;
  /** How often what is acknowledged is flushed: with the time that takes, it is on stable storage within a second. */
  readonly flushMs: number;
  /** How often the tracker's position is renewed, while every write is kept; see `PositionRenewal`. */
  readonly renewMs: number;
  readonly latency: LatencyLimits;
  /** How often intervals are taken while writes would be too slow, and for how long the first time; then twice as long. */
  readonly fallbackIntervalMs: number;
  readonly fallbackMs: number;
  /** Pause after the first failure; each one after it doubles it, up to `maxRetryMs`. */
  readonly retryMs: number;
  /** How often the machine is looked at without being told of a change. */
  readonly watchMs: number;
  readonly tickMs: number;
}

const MINUTE_MS = 60_000;

export const DEFAULT_SESSION_SETTINGS: SessionSettings = {
  ...DEFAULT_FOLD_LIMITS,
  intervalMs: 0,
  durability: 'group',
  flushMs: 500,
  renewMs: 10 * MINUTE_MS,
  latency: DEFAULT_LATENCY_LIMITS,
  fallbackIntervalMs: 10_000,
  fallbackMs: MINUTE_MS,
  retryMs: 1_000,
  watchMs: 30_000,
  tickMs: 200,
};
