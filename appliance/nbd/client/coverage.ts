// SPDX-License-Identifier: Apache-2.0

/** More disjoint pieces than this in one reply are refused: 512-byte pieces of 32 MiB, every second one missing. */
const MAX_PIECES = 32_768;

/**
 * Which bytes of one read request were covered, each at most once. Chunks in order cost nothing; others are kept as
 * sorted disjoint pieces.
 *
 * Invariant: `#pieces` is sorted, disjoint and merged; its first piece, if it starts at 0, is not shorter than `#front`.
 */
export class Coverage {
  /** `[0, #front)` is covered. */
  #front = 0;
  /** Starts and ends in turn, all behind `#front`; empty as long as chunks came in order. */
  readonly #edges: number[] = [];

  /** Adds `[start, end)`; false when a byte of it was covered already or the pieces are too many. */
  add(start: number, end: number): boolean {
    const edges = this.#edges;
    if (start === this.#front && edges.length === 0) {
      this.#front = end;
      return true;
    }
    if (start < this.#front) return false;
    let index = lowerBound(edges, start);
    // An odd index lies inside of a piece: its start is before `start`, and its end is at or behind it.
    if (index % 2 === 1 && edges[index] !== start) return false;
    const touchesLeft = index % 2 === 1;
    if (touchesLeft) index += 1;
    const next = edges[index];
    if (next !== undefined && next < end) return false;
    const touchesRight = next === end;
    if (touchesLeft && touchesRight) edges.splice(index - 1, 2);
    else if (touchesLeft) edges[index - 1] = end;
    else if (touchesRight) edges[index] = start;
    else edges.splice(index, 0, start, end);
    this.#absorb();
    return edges.length <= 2 * MAX_PIECES;
  }

  /** True when exactly `[0, length)` is covered. */
  isComplete(length: number): boolean {
    return this.#edges.length === 0 && this.#front === length;
  }

  #absorb(): void {
    const [start, end] = this.#edges;
    if (start !== this.#front || end === undefined) return;
    this.#front = end;
    this.#edges.splice(0, 2);
  }
}

/** Index of the first edge that is not below `value`. */
function lowerBound(edges: readonly number[], value: number): number {
  let low = 0;
  let high = edges.length;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if ((edges[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
