// SPDX-License-Identifier: Apache-2.0
import type { Moment, StretchKind } from './journal-event.ts';

/** What a sealed segment says about itself, as JSON in its last block. All positions are bytes. */
export interface SealedSummary {
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly firstTimeUs: number;
  readonly lastTimeUs: number;
  /** The last record up to here behind which no part of a request is missing, in this segment or before. */
  readonly lastWhole: Moment;
  /** The stretch that was open before its first record. */
  readonly stretch: { readonly kind: StretchKind; readonly begin: Moment } | null;
  /** Sequence, time and text of its events, in order. */
  readonly events: readonly (readonly [sequence: number, timeUs: number, text: string])[];
  /** Cell, writes, bytes; one after the other (`WriteRates`). */
  readonly rates: readonly number[];
  /** Place in the file and place in the plain data of its blocks of data; one after the other. */
  readonly dataBlocks: readonly number[];
  /** Places in the file of its blocks of table entries. */
  readonly tableBlocks: readonly number[];
}

/** Undefined for text that is no summary; only damage or another version can have written that. */
export function parseSummary(bytes: Buffer): SealedSummary | undefined {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
  return isSummary(value) ? value : undefined;
}

function isSummary(value: unknown): value is SealedSummary {
  if (typeof value !== 'object' || value === null) return false;
  const { firstSequence, lastSequence, firstTimeUs, lastTimeUs, lastWhole, stretch, events, rates, ...rest } =
    value as Record<string, unknown>;
  const areNumbers = [firstSequence, lastSequence, firstTimeUs, lastTimeUs].every(Number.isSafeInteger);
  const areLists = [rates, rest['dataBlocks'], rest['tableBlocks']].every(
    (list) => Array.isArray(list) && list.every(Number.isSafeInteger),
  );
  return areNumbers && areLists && isMoment(lastWhole) && isStretch(stretch) && isEvents(events);
}

function isMoment(value: unknown): value is Moment {
  if (typeof value !== 'object' || value === null) return false;
  const { sequence, timeUs } = value as Record<string, unknown>;
  return Number.isSafeInteger(sequence) && Number.isSafeInteger(timeUs);
}

function isStretch(value: unknown): boolean {
  if (value === null) return true;
  if (typeof value !== 'object') return false;
  const { kind, begin } = value as Record<string, unknown>;
  return (kind === 'writes' || kind === 'interval') && isMoment(begin);
}

function isEvents(value: unknown): boolean {
  if (!Array.isArray(value)) return false;
  return value.every((event: unknown) => {
    if (!Array.isArray(event) || event.length !== 3) return false;
    const [sequence, timeUs, text] = event as unknown[];
    return Number.isSafeInteger(sequence) && Number.isSafeInteger(timeUs) && typeof text === 'string';
  });
}
