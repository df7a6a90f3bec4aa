// SPDX-License-Identifier: Apache-2.0
import { ExtentMap, type Slice } from '../core/extent-map.ts';
import type { DiskRange } from './write-layer.ts';
import { MAX_SEGMENT_BYTES, type RecordFacts } from './write-log-format.ts';

/** Where a record stands in the log, in one safe integer that grows with its sequence: segment number and position. */
export function locationOf(segmentNumber: number, position: number): number {
  return segmentNumber * MAX_SEGMENT_BYTES + position;
}

/** The number of the segment that a location lies in. */
export function segmentOf(location: number): number {
  return Math.floor(location / MAX_SEGMENT_BYTES);
}

/** Where in its segment a location lies. */
export function positionOf(location: number): number {
  return location % MAX_SEGMENT_BYTES;
}

/**
 * Which record each byte of each disk comes from, by location; a range that reads as zeroes has the negative of its
 * record's location.
 */
export class WriteLogIndex {
  private readonly maps = new Map<number, ExtentMap<number>>();

  /** Disks that have records, in order. */
  get disks(): number[] {
    return [...this.maps.keys()].sort((a, b) => a - b);
  }

  /** Ranges of all disks. */
  get size(): number {
    let total = 0;
    for (const map of this.maps.values()) total += map.size;
    return total;
  }

  /** Enters a record; those without a range change nothing. */
  place(record: Pick<RecordFacts, 'kind' | 'disk' | 'offset' | 'length'>, location: number): void {
    if (record.kind !== 'write' && record.kind !== 'zero' && record.kind !== 'trim') return;
    let map = this.maps.get(record.disk);
    if (map === undefined) {
      map = new ExtentMap<number>();
      this.maps.set(record.disk, map);
    }
    map.set(record, record.kind === 'write' ? location : -location);
  }

  /** Forgets everything that comes from records at or before a location: the base beneath holds it. */
  dropThrough(location: number): void {
    for (const map of this.maps.values()) map.retain((value) => Math.abs(value) > location);
  }

  slices(place: DiskRange): Slice<number>[] {
    const map = this.maps.get(place.disk);
    if (map === undefined) return [{ offset: place.offset, length: place.length, value: undefined, valueOffset: 0 }];
    return [...map.slices(place)];
  }

  sliceIterator(place: DiskRange): Generator<Slice<number>, void, undefined> {
    return (this.maps.get(place.disk) ?? new ExtentMap<number>()).slices(place);
  }

  /** All ranges of a disk, in order. */
  *entries(disk: number): Generator<Slice<number>, void, undefined> {
    const map = this.maps.get(disk);
    if (map !== undefined) yield* map.entries();
  }
}
