// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';

const DURATIONS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const SIZES: Readonly<Record<string, number>> = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, TiB: 1024 ** 4 };

/** What a number with a unit may be, and how it is told when it is not. */
export interface AmountLimits {
  readonly least: number;
  readonly most: number;
  /** As in "… is no interval". */
  readonly what: string;
  readonly hint: string;
}

/** `1500ms`, `5s`, `1m`, `2h`, `7d`, in milliseconds. @throws ApplianceError BAD_ARGUMENT */
export function parseDuration(text: string, limits: AmountLimits): number {
  return parseAmount(text, DURATIONS, limits);
}

/** `512MiB`, `50GiB`, in bytes. @throws ApplianceError BAD_ARGUMENT */
export function parseBytes(text: string, limits: AmountLimits): number {
  return parseAmount(text, SIZES, limits);
}

function parseAmount(text: string, units: Readonly<Record<string, number>>, limits: AmountLimits): number {
  const match = /^(\d+(?:\.\d+)?)([A-Za-z]+)$/.exec(text);
  const unit = match === null ? undefined : units[match[2] ?? ''];
  const value = unit === undefined ? Number.NaN : Math.round(Number(match?.[1]) * unit);
  if (value >= limits.least && value <= limits.most) return value;
  throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no ${limits.what}`, { hint: limits.hint });
}
