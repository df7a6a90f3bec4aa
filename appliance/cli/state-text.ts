// SPDX-License-Identifier: Apache-2.0
import type { MomentReport } from '../api/schemas/journal.ts';
import { formatLocalTime, plain } from './format.ts';

/** `3f2a91c04b7d8e11`, or the moment above it: `2026-11-21 10:31:07.250123 (seq:123456 above 3f2a91c04b7d8e11)`. */
export function stateText({ point, moment }: { readonly point: string; readonly moment: MomentReport | null }): string {
  if (moment === null) return point;
  const name = moment.bookmark === null ? '' : ` "${plain(moment.bookmark)}"`;
  return `${formatMoment(moment.time)}${name} (seq:${moment.sequence} above ${point})`;
}

/** A moment's time in the process's time zone, with as many digits behind the point as it has. */
export function formatMoment(iso: string): string {
  return `${formatLocalTime(iso)}${/\.\d+/.exec(iso)?.[0] ?? ''}`;
}
