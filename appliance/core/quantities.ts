// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from './errors.ts';

const MILLISECONDS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
const BYTES: Readonly<Record<string, number>> = {
  '': 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** A length of time as people type it, in milliseconds: `500ms`, `5s`, `2min`, `1h`, `7d`. @throws ApplianceError BAD_ARGUMENT */
export function parseDurationMs(text: string): number {
  return parse(text, MILLISECONDS, { what: 'length of time', hint: 'Use 500ms, 5s, 2min, 1h or 7d.' });
}

/** A number of bytes as people type it: `4096`, `64KiB`, `1MiB`, `20GiB`, `2TiB`. @throws ApplianceError BAD_ARGUMENT */
export function parseByteCount(text: string): number {
  return parse(text, BYTES, {
    what: 'number of bytes',
    hint: 'Use a number of bytes, or one with KiB, MiB, GiB or TiB.',
  });
}

function parse(
  text: string,
  units: Readonly<Record<string, number>>,
  { what, hint }: { readonly what: string; readonly hint: string },
): number {
  const [, digits, unit = ''] = /^(\d{1,16}) ?([a-zA-Z]*)$/.exec(text) ?? [];
  const factor = Object.hasOwn(units, unit) ? units[unit] : undefined;
  const value = Number(digits) * (factor ?? Number.NaN);
  if (digits !== undefined && Number.isSafeInteger(value)) return value;
  throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no ${what}`, { hint });
}
