// SPDX-License-Identifier: Apache-2.0

/** Writes are counted in cells of this length. */
export const CELL_US = 10_000_000;

/** How much was written in one span of time. */
export interface RateBucket {
  /** Microseconds since the Unix epoch. */
  readonly startUs: number;
  readonly lengthUs: number;
  /** Changes of disks: writes, zeroes and trims. */
  readonly writes: number;
  /** Bytes of the writes; zeroes and trims have none. */
  readonly bytes: number;
}

/** Writes and bytes per 10 s, of a part of a journal; three numbers for each cell in which anything was written. */
export class WriteRates {
  private readonly cells: number[] = [];

  /** `cells`: cell number, writes and bytes, one after the other, as `packed` gives them. */
  constructor(cells: readonly number[] = []) {
    this.cells = [...cells];
  }

  /** Times never decrease. */
  add(timeUs: number, bytes: number): void {
    const cell = Math.floor(timeUs / CELL_US);
    const { cells } = this;
    if (cells.length === 0 || cells[cells.length - 3] !== cell) cells.push(cell, 0, 0);
    cells[cells.length - 2] = (cells[cells.length - 2] ?? 0) + 1;
    cells[cells.length - 1] = (cells[cells.length - 1] ?? 0) + bytes;
  }

  packed(): readonly number[] {
    return this.cells;
  }

  /** Adds what it has to the counts of another. */
  addTo(counts: RateCounts): void {
    for (let at = 0; at < this.cells.length; at += 3) {
      const cellUs = (this.cells[at] ?? 0) * CELL_US;
      // A cell that lies on the edge counts for the first span.
      const timeUs = cellUs < counts.fromUs && cellUs + CELL_US > counts.fromUs ? counts.fromUs : cellUs;
      counts.add(timeUs, this.cells[at + 1] ?? 0, this.cells[at + 2] ?? 0);
    }
  }
}

/** Counts in equal spans from one time to another; the last span includes its end. */
export class RateCounts {
  readonly lengthUs: number;
  readonly fromUs: number;
  private readonly toUs: number;
  private readonly writes: number[];
  private readonly bytes: number[];

  constructor(span: { readonly fromUs: number; readonly toUs: number }, buckets: number) {
    this.fromUs = span.fromUs;
    this.toUs = span.toUs;
    this.lengthUs = Math.max(1, Math.ceil((span.toUs - span.fromUs) / buckets));
    const count = Math.max(1, Math.ceil((span.toUs - span.fromUs) / this.lengthUs));
    this.writes = Array.from({ length: count }, () => 0);
    this.bytes = Array.from({ length: count }, () => 0);
  }

  add(timeUs: number, writes: number, bytes: number): void {
    if (timeUs < this.fromUs || timeUs > this.toUs) return;
    const bucket = Math.min(this.writes.length - 1, Math.floor((timeUs - this.fromUs) / this.lengthUs));
    this.writes[bucket] = (this.writes[bucket] ?? 0) + writes;
    this.bytes[bucket] = (this.bytes[bucket] ?? 0) + bytes;
  }

  buckets(): RateBucket[] {
    return this.writes.map((writes, index) => ({
      startUs: this.fromUs + index * this.lengthUs,
      lengthUs: this.lengthUs,
      writes,
      bytes: this.bytes[index] ?? 0,
    }));
  }
}
