// SPDX-License-Identifier: Apache-2.0
import { endOf, type Range } from './extents.ts';
import { invariant } from './invariant.ts';

/**
 * A piece of the answer to "what covers this range": with a value, whose byte `valueOffset` lies at `offset`, or a gap
 * (`value` undefined).
 */
export interface Slice<V> extends Range {
  readonly value: V | undefined;
  readonly valueOffset: number;
}

/** Entries of one leaf: a split makes two halves, so leaves are at least half full after growth. */
const MAX_LEAF_ENTRIES = 512;

/**
 * Columns of one leaf, side by side: numbers stay unboxed in V8's double arrays, so an entry with a number as its value
 * takes 32 bytes and no object.
 */
interface Leaf<V> {
  readonly starts: number[];
  readonly ends: number[];
  readonly values: V[];
  readonly valueOffsets: number[];
}

/** A place in the map; `index` may be one past the leaf's last entry only at the very end. */
interface Place {
  leaf: number;
  index: number;
}

/**
 * An ordered map from byte ranges to values in which the newest `set` wins: older entries are cut, split or removed
 * beneath it. A value covers its range from its own byte `valueOffset` on, so what is left of a split entry still says
 * which of its bytes it means.
 *
 * Two levels: a sorted array of leaves with at most 512 entries each. Operations take O(log n) plus the entries they
 * remove; the memory is about 45 bytes per entry with numbers as values (measured: `docs/formats/write-log.md`).
 *
 * Invariants (over all entries in order): start < end; end <= next start; leaves are not empty; an entry never touches a
 * neighbour that continues it (same value, next value byte): those are merged.
 */
export class ExtentMap<V> {
  private leaves: Leaf<V>[] = [];
  private count = 0;
  private covered = 0;
  private changes = 0;

  /** Number of entries. */
  get size(): number {
    return this.count;
  }

  /** Bytes that have a value. */
  get coveredBytes(): number {
    return this.covered;
  }

  /** Lets `value`, from its byte `valueOffset` on, cover the range. A range of length 0 changes nothing. */
  set(range: Range, value: V, valueOffset: number = 0): void {
    if (range.length === 0) return;
    const start = range.offset;
    const end = endOf(range);
    if (this.replace({ start, end, value, valueOffset })) return;
    const place = this.clear(start, end);
    const [from, to, firstByte] = this.absorbNeighbours(place, { start, end, value, valueOffset });
    this.insert(place, { start: from, end: to, value, valueOffset: firstByte });
  }

  /** The common case of a place that is written again: its entry has the same range, and no neighbour the same value. */
  private replace({ start, end, value, valueOffset }: Entry<V>): boolean {
    const { leaf: leafIndex, index } = this.find(start);
    const leaf = this.leaves[leafIndex];
    if (leaf === undefined || leaf.starts[index] !== start || leaf.ends[index] !== end) return false;
    const isAtEdge = index === 0 || index + 1 === leaf.starts.length;
    if (isAtEdge || leaf.values[index - 1] === value || leaf.values[index + 1] === value) return false;
    this.changes += 1;
    leaf.values[index] = value;
    leaf.valueOffsets[index] = valueOffset;
    return true;
  }

  /** Makes the range a gap. */
  delete(range: Range): void {
    if (range.length > 0) this.clear(range.offset, endOf(range));
  }

  /** Makes every entry a gap whose value is not to be kept. Takes O(entries). */
  retain(isKept: (value: V) => boolean): void {
    this.changes += 1;
    this.leaves = this.leaves.filter((leaf) => {
      let kept = 0;
      for (let index = 0; index < leaf.starts.length; index++) {
        if (isKept(leaf.values[index] as V)) {
          leaf.starts[kept] = at(leaf.starts, index);
          leaf.ends[kept] = at(leaf.ends, index);
          leaf.values[kept] = leaf.values[index] as V;
          leaf.valueOffsets[kept] = at(leaf.valueOffsets, index);
          kept += 1;
        } else this.covered -= at(leaf.ends, index) - at(leaf.starts, index);
      }
      this.count -= leaf.starts.length - kept;
      for (const column of [leaf.starts, leaf.ends, leaf.values, leaf.valueOffsets]) column.length = kept;
      return kept > 0;
    });
  }

  /**
   * What covers the range, as slices with values and gaps in order, without holes between them. The map must not change
   * until the iteration has ended.
   */
  *slices(range: Range): Generator<Slice<V>, void, undefined> {
    const end = endOf(range);
    const { changes } = this;
    const place = this.find(range.offset);
    let offset = range.offset;
    while (offset < end) {
      invariant(changes === this.changes, 'an extent map does not change while its slices are read');
      const leaf = this.leaves[place.leaf];
      const start = leaf?.starts[place.index] ?? Number.POSITIVE_INFINITY;
      if (leaf === undefined || start >= end) {
        yield { offset, length: end - offset, value: undefined, valueOffset: 0 };
        return;
      }
      if (start > offset) {
        yield { offset, length: start - offset, value: undefined, valueOffset: 0 };
        offset = start;
      }
      const sliceEnd = Math.min(at(leaf.ends, place.index), end);
      const valueOffset = at(leaf.valueOffsets, place.index) + (offset - start);
      yield { offset, length: sliceEnd - offset, value: leaf.values[place.index], valueOffset };
      offset = sliceEnd;
      this.advance(place);
    }
  }

  /** All entries in order. The map must not change until the iteration has ended. */
  *entries(): Generator<Slice<V>, void, undefined> {
    const { changes } = this;
    for (const leaf of this.leaves) {
      for (const [index, offset] of leaf.starts.entries()) {
        invariant(changes === this.changes, 'an extent map does not change while its entries are read');
        const length = at(leaf.ends, index) - offset;
        yield { offset, length, value: leaf.values[index], valueOffset: at(leaf.valueOffsets, index) };
      }
    }
  }

  /** The first entry that ends after `offset`, or the place behind the last one. */
  private find(offset: number): Place {
    let low = 0;
    let high = this.leaves.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (lastOf(leafAt(this.leaves, middle).ends) > offset) high = middle;
      else low = middle + 1;
    }
    const leaf = this.leaves[low];
    return { leaf: low, index: leaf === undefined ? 0 : firstAbove(leaf.ends, offset) };
  }

  private advance(place: Place): void {
    place.index += 1;
    if (place.index >= (this.leaves[place.leaf]?.starts.length ?? 0)) {
      place.leaf += 1;
      place.index = 0;
    }
  }

  /** Makes [start, end) a gap; the result is where an entry of that range belongs. */
  private clear(start: number, end: number): Place {
    this.changes += 1;
    const place = this.find(start);
    let leaf = this.leaves[place.leaf];
    if (leaf === undefined) return place;
    const firstStart = at(leaf.starts, place.index);
    if (firstStart < start) {
      const firstEnd = at(leaf.ends, place.index);
      leaf.ends[place.index] = start;
      this.covered -= firstEnd - start;
      if (firstEnd > end) {
        const right = {
          start: end,
          end: firstEnd,
          value: leaf.values[place.index] as V,
          valueOffset: at(leaf.valueOffsets, place.index) + (end - firstStart),
        };
        this.insert({ leaf: place.leaf, index: place.index + 1 }, right);
        return this.find(start);
      }
      this.advance(place);
    }
    this.removeWithin(place, end);
    leaf = this.leaves[place.leaf];
    const nextStart = leaf?.starts[place.index];
    if (leaf !== undefined && nextStart !== undefined && nextStart < end) {
      leaf.starts[place.index] = end;
      leaf.valueOffsets[place.index] = at(leaf.valueOffsets, place.index) + (end - nextStart);
      this.covered -= end - nextStart;
    }
    return place;
  }

  /** Removes entries from `place` on that end at or before `end`; `place` then names the entry that follows. */
  private removeWithin(place: Place, end: number): void {
    let leaf = this.leaves[place.leaf];
    if (leaf === undefined) return;
    const first = place.leaf;
    if (place.index > 0) {
      const stop = firstAbove(leaf.ends, end);
      if (stop <= place.index) return;
      const isToEnd = stop === leaf.ends.length;
      this.removeEntries(leaf, place.index, stop);
      if (!isToEnd) return;
      place.leaf += 1;
      place.index = 0;
    }
    const firstWhole = place.leaf;
    let wholes = 0;
    for (leaf = this.leaves[firstWhole]; leaf !== undefined && lastOf(leaf.ends) <= end; ) {
      this.forget(leaf, 0, leaf.ends.length);
      wholes += 1;
      leaf = this.leaves[firstWhole + wholes];
    }
    if (wholes > 0) this.leaves.splice(firstWhole, wholes);
    if (leaf !== undefined) {
      const stop = firstAbove(leaf.ends, end);
      if (stop > 0) this.removeEntries(leaf, 0, stop);
    }
    invariant(place.leaf >= first, 'removal never moves backwards');
  }

  private removeEntries(leaf: Leaf<V>, from: number, to: number): void {
    this.forget(leaf, from, to);
    leaf.starts.splice(from, to - from);
    leaf.ends.splice(from, to - from);
    leaf.values.splice(from, to - from);
    leaf.valueOffsets.splice(from, to - from);
  }

  private forget(leaf: Leaf<V>, from: number, to: number): void {
    this.count -= to - from;
    for (let index = from; index < to; index++) this.covered -= at(leaf.ends, index) - at(leaf.starts, index);
  }

  /** Removes neighbours that the new entry continues or that continue it; the result is the entry grown by them. */
  private absorbNeighbours(place: Place, entry: Entry<V>): readonly [start: number, end: number, valueOffset: number] {
    let { start, end, valueOffset } = entry;
    const next = this.leaves[place.leaf];
    if (next !== undefined && next.starts[place.index] === end && next.values[place.index] === entry.value) {
      if (at(next.valueOffsets, place.index) === valueOffset + (end - start)) {
        end = at(next.ends, place.index);
        this.removeAt(place);
      }
    }
    const before = this.before(place);
    const previous = before === undefined ? undefined : this.leaves[before.leaf];
    if (before === undefined || previous === undefined) return [start, end, valueOffset];
    const previousStart = at(previous.starts, before.index);
    const isContinued = previous.ends[before.index] === start && previous.values[before.index] === entry.value;
    if (isContinued && at(previous.valueOffsets, before.index) + (start - previousStart) === valueOffset) {
      valueOffset = at(previous.valueOffsets, before.index);
      start = previousStart;
      this.removeAt(before);
      place.leaf = before.leaf;
      place.index = before.index;
    }
    return [start, end, valueOffset];
  }

  /** Removes one entry; `place` then names the one that follows. */
  private removeAt(place: Place): void {
    const leaf = leafAt(this.leaves, place.leaf);
    this.removeEntries(leaf, place.index, place.index + 1);
    if (leaf.starts.length === 0) this.leaves.splice(place.leaf, 1);
    else if (place.index === leaf.starts.length) {
      place.leaf += 1;
      place.index = 0;
    }
  }

  private before(place: Place): Place | undefined {
    if (place.index > 0) return { leaf: place.leaf, index: place.index - 1 };
    const previous = this.leaves[place.leaf - 1];
    return previous === undefined ? undefined : { leaf: place.leaf - 1, index: previous.starts.length - 1 };
  }

  /** Puts an entry before the one at `place`; the room must be a gap. */
  private insert(place: Place, entry: Entry<V>): void {
    let leafIndex = place.leaf;
    let { index } = place;
    // At the start of a leaf, the end of the one before is as good, and keeps appending in order from splitting badly.
    if (index === 0 && leafIndex > 0) {
      leafIndex -= 1;
      index = leafAt(this.leaves, leafIndex).starts.length;
    }
    let leaf = this.leaves[leafIndex];
    if (leaf === undefined) {
      leaf = { starts: [], ends: [], values: [], valueOffsets: [] };
      this.leaves.push(leaf);
    } else if (leaf.starts.length >= MAX_LEAF_ENTRIES) {
      const middle = index === MAX_LEAF_ENTRIES ? MAX_LEAF_ENTRIES : MAX_LEAF_ENTRIES >>> 1;
      const right = splitLeaf(leaf, middle);
      this.leaves.splice(leafIndex + 1, 0, right);
      if (index >= middle) {
        leaf = right;
        index -= middle;
      }
    }
    leaf.starts.splice(index, 0, entry.start);
    leaf.ends.splice(index, 0, entry.end);
    leaf.values.splice(index, 0, entry.value);
    leaf.valueOffsets.splice(index, 0, entry.valueOffset);
    this.count += 1;
    this.covered += entry.end - entry.start;
  }
}

interface Entry<V> {
  readonly start: number;
  readonly end: number;
  readonly value: V;
  readonly valueOffset: number;
}

/** Cuts the leaf before entry `middle`; the result holds the rest (nothing when the leaf is appended to in order). */
function splitLeaf<V>(leaf: Leaf<V>, middle: number): Leaf<V> {
  return {
    starts: leaf.starts.splice(middle),
    ends: leaf.ends.splice(middle),
    values: leaf.values.splice(middle),
    valueOffsets: leaf.valueOffsets.splice(middle),
  };
}

/** Index of the first number above `limit` in a sorted array. */
function firstAbove(sorted: readonly number[], limit: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (at(sorted, middle) > limit) high = middle;
    else low = middle + 1;
  }
  return low;
}

function at(column: readonly number[], index: number): number {
  const value = column[index];
  invariant(value !== undefined, 'an index lies inside its leaf');
  return value;
}

function lastOf(column: readonly number[]): number {
  return at(column, column.length - 1);
}

function leafAt<V>(leaves: readonly Leaf<V>[], index: number): Leaf<V> {
  const leaf = leaves[index];
  invariant(leaf !== undefined, 'an index names a leaf');
  return leaf;
}
