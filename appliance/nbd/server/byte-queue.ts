// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../../core/invariant.ts';

/**
 * What has arrived and was not parsed yet, as the chunks in which it came: nothing is concatenated. The first chunk is
 * visible as `buffer` from `offset` on.
 *
 * Invariant: `length` = bytes of `buffer` from `offset` + bytes of all later chunks, and `length = 0` or the first
 * chunk has a byte left.
 */
export class ByteQueue {
  buffer: Buffer = EMPTY;
  offset = 0;
  length = 0;
  #later: Buffer[] = [];

  /** Appends a chunk; the queue keeps it until it is consumed. */
  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    if (this.length === 0) {
      this.buffer = chunk;
      this.offset = 0;
    } else this.#later.push(chunk);
    this.length += chunk.length;
  }

  /** True when `bytes` can be read at `buffer[offset]`; a header that straddles chunks is moved into a small chunk first. */
  hasHead(bytes: number): boolean {
    if (this.length < bytes) return false;
    if (this.buffer.length - this.offset < bytes) this.#gather(bytes);
    return true;
  }

  /** The next `bytes` (which must be there): a view into the chunk when they lie in one, else a copy. The caller's from now on. */
  take(bytes: number): Buffer {
    invariant(bytes <= this.length, 'no more is taken from a byte queue than it holds');
    if (this.buffer.length - this.offset >= bytes) {
      const view = this.buffer.subarray(this.offset, this.offset + bytes);
      this.skip(bytes);
      return view;
    }
    const copy = Buffer.allocUnsafeSlow(bytes);
    this.copyTo(copy, 0);
    return copy;
  }

  /** Moves as much as there is and as fits into `target` from `at` on; returns how much. */
  copyTo(target: Buffer, at: number): number {
    let position = at;
    while (position < target.length && this.length > 0) {
      const count = Math.min(target.length - position, this.buffer.length - this.offset);
      this.buffer.copy(target, position, this.offset, this.offset + count);
      position += count;
      this.#advance(count);
    }
    return position - at;
  }

  /** Drops up to `bytes`; returns how many. */
  skip(bytes: number): number {
    let left = bytes;
    while (left > 0 && this.length > 0) {
      const count = Math.min(left, this.buffer.length - this.offset);
      left -= count;
      this.#advance(count);
    }
    return bytes - left;
  }

  clear(): void {
    this.buffer = EMPTY;
    this.offset = 0;
    this.length = 0;
    this.#later = [];
  }

  #advance(count: number): void {
    this.offset += count;
    this.length -= count;
    if (this.offset < this.buffer.length) return;
    this.buffer = this.#later.shift() ?? EMPTY;
    this.offset = 0;
  }

  #gather(bytes: number): void {
    const head = Buffer.allocUnsafeSlow(bytes);
    const total = this.length;
    this.copyTo(head, 0);
    if (this.length > 0) this.#later.unshift(this.offset === 0 ? this.buffer : this.buffer.subarray(this.offset));
    this.buffer = head;
    this.offset = 0;
    this.length = total;
  }
}

const EMPTY: Buffer = Buffer.alloc(0);
