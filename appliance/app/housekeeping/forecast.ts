// SPDX-License-Identifier: Apache-2.0

/** What the repository held, and what was free beside it, on one day. */
export interface CapacitySample {
  /** Milliseconds since the Unix epoch. */
  readonly atMs: number;
  readonly logicalBytes: number;
  readonly uniqueBytes: number;
  readonly storedBytes: number;
  /** Of the repository's file system, for its user. */
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** What the recent weeks tell of the ones to come; null where they do not. */
export interface Forecast {
  /** Stored bytes by which the repository grows in a day; negative when it shrinks. */
  readonly growthBytesPerDay: number | null;
  /** Until the file system is full, as it was used lately, by whomever; null also when it does not become fuller. */
  readonly daysUntilFull: number | null;
  /** Days that the samples span. */
  readonly historyDays: number;
}

const DAY_MS = 24 * 3_600_000;
/** A sample a day, for a year and a month. */
export const MAX_SAMPLES = 400;
export const SAMPLE_INTERVAL_MS: number = DAY_MS;
/** What is older says little of the next weeks. */
const FORECAST_DAYS = 28;
/** Fewer days, or samples, are chance. */
const MIN_DAYS = 7;
const MIN_SAMPLES = 5;

/**
 * The samples with a new one, at most one a day and `MAX_SAMPLES`. Those that lie ahead of the clock are dropped: it was wrong
 * when they were taken, or is now.
 */
export function withSample(samples: readonly CapacitySample[], sample: CapacitySample): readonly CapacitySample[] {
  const before = samples.filter(({ atMs }) => atMs < sample.atMs);
  const newest = before.at(-1);
  if (newest !== undefined && sample.atMs - newest.atMs < SAMPLE_INTERVAL_MS) return before;
  return [...before, sample].slice(-MAX_SAMPLES);
}

/** The trend of the last weeks: the median of the slopes between all pairs of samples (Theil and Sen), which one odd day does not move. */
export function forecast(samples: readonly CapacitySample[], now: CapacitySample): Forecast {
  const recent = [...samples, now].filter(({ atMs }) => atMs <= now.atMs && now.atMs - atMs <= FORECAST_DAYS * DAY_MS);
  const historyDays = (now.atMs - (recent[0]?.atMs ?? now.atMs)) / DAY_MS;
  if (historyDays < MIN_DAYS || recent.length < MIN_SAMPLES) {
    return { growthBytesPerDay: null, daysUntilFull: null, historyDays };
  }
  const growthBytesPerDay = slopePerDay(recent, ({ storedBytes }) => storedBytes);
  const usePerDay = slopePerDay(recent, ({ totalBytes, freeBytes }) => totalBytes - freeBytes);
  return {
    growthBytesPerDay: Math.round(growthBytesPerDay),
    daysUntilFull: usePerDay > 0 ? Math.round((now.freeBytes / usePerDay) * 10) / 10 : null,
    historyDays,
  };
}

function slopePerDay(samples: readonly CapacitySample[], valueOf: (sample: CapacitySample) => number): number {
  const slopes: number[] = [];
  for (const [n, a] of samples.entries()) {
    for (const b of samples.slice(n + 1)) {
      if (b.atMs > a.atMs) slopes.push(((valueOf(b) - valueOf(a)) / (b.atMs - a.atMs)) * DAY_MS);
    }
  }
  const sorted = slopes.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? upper)) / 2;
}

/** How urgent it is that somebody makes room. */
export type CapacityLevel = 'ok' | 'warning' | 'critical';

export const CAPACITY_LEVELS: readonly CapacityLevel[] = ['ok', 'warning', 'critical'];
export const WARNING_DAYS = 30;
export const CRITICAL_DAYS = 7;
export const WARNING_FREE_SHARE = 0.1;
export const CRITICAL_FREE_SHARE = 0.05;

export function capacityLevel(
  { daysUntilFull }: Pick<Forecast, 'daysUntilFull'>,
  { freeBytes, totalBytes }: Pick<CapacitySample, 'freeBytes' | 'totalBytes'>,
): CapacityLevel {
  const share = totalBytes === 0 ? 0 : freeBytes / totalBytes;
  const days = daysUntilFull ?? Number.POSITIVE_INFINITY;
  if (share < CRITICAL_FREE_SHARE || days < CRITICAL_DAYS) return 'critical';
  return share < WARNING_FREE_SHARE || days < WARNING_DAYS ? 'warning' : 'ok';
}
