// SPDX-License-Identifier: Apache-2.0

/** A run of bytes. Offsets and lengths are safe integers (a disk is at most 2^53 - 1 bytes here). */
export interface Range {
  readonly offset: number;
  readonly length: number;
}

/**
 * What a run of bytes holds: `data` must be read; `zero` reads as zeroes and is allocated; `hole` reads as zeroes and
 * has no storage. An area whose content is undefined (NBD's HOLE without ZERO) is `data`: it must be read.
 */
export type ExtentKind = 'data' | 'zero' | 'hole';

/** One extent; lists of extents are sorted, disjoint, without gaps inside the range they describe, neighbours of one kind merged. */
export interface Extent extends Range {
  readonly kind: ExtentKind;
}

/** First byte after the range. */
export function endOf(range: Range): number {
  return range.offset + range.length;
}

/** The common part of two ranges, or undefined when they share no byte. */
export function intersect(a: Range, b: Range): Range | undefined {
  const offset = Math.max(a.offset, b.offset);
  const end = Math.min(endOf(a), endOf(b));
  return end > offset ? { offset, length: end - offset } : undefined;
}

/** The smallest range with both edges on multiples of `unitBytes` that covers `range`, cut at `limitBytes`. */
export function alignOutward(range: Range, unitBytes: number, limitBytes: number = Number.MAX_SAFE_INTEGER): Range {
  const offset = range.offset - (range.offset % unitBytes);
  const end = Math.min(Math.ceil(endOf(range) / unitBytes) * unitBytes, limitBytes);
  return { offset, length: end - offset };
}

/** Appends to a list in order, merging with the last entry when it touches it. */
export function appendRange(ranges: { offset: number; length: number }[], range: Range): void {
  if (range.length === 0) return;
  const last = ranges.at(-1);
  if (last !== undefined && last.offset + last.length === range.offset) last.length += range.length;
  else ranges.push({ offset: range.offset, length: range.length });
}

/** Appends to a list in order, merging with the last entry when it touches it and is of the same kind. */
export function appendExtent(extents: { offset: number; length: number; kind: ExtentKind }[], extent: Extent): void {
  if (extent.length === 0) return;
  const last = extents.at(-1);
  if (last !== undefined && last.kind === extent.kind && last.offset + last.length === extent.offset) {
    last.length += extent.length;
  } else extents.push({ offset: extent.offset, length: extent.length, kind: extent.kind });
}

/** Sorts and merges ranges in any order, overlapping or not. */
export function normalizeRanges(ranges: readonly Range[]): Range[] {
  const sorted = ranges.filter((range) => range.length > 0).sort((a, b) => a.offset - b.offset);
  const merged: { offset: number; length: number }[] = [];
  for (const range of sorted) {
    const last = merged.at(-1);
    if (last !== undefined && range.offset <= endOf(last))
      last.length = Math.max(endOf(last), endOf(range)) - last.offset;
    else merged.push({ offset: range.offset, length: range.length });
  }
  return merged;
}

/** Sum of the lengths. */
export function totalLength(ranges: Iterable<Range>): number {
  let total = 0;
  for (const range of ranges) total += range.length;
  return total;
}
