// SPDX-License-Identifier: Apache-2.0

/** A reply buffer. `usedBytes` is handed out from its start, `pinnedBytes` of that is not in the kernel yet. */
export class Slab {
  readonly buffer: Buffer;
  readonly view: DataView;
  usedBytes = 0;
  pinnedBytes = 0;

  constructor(sizeBytes: number) {
    // Shared memory, so that a device whose data comes from other threads has it put here by them.
    this.buffer = Buffer.from(new SharedArrayBuffer(sizeBytes));
    this.view = new DataView(this.buffer.buffer, this.buffer.byteOffset, sizeBytes);
  }
}

/** Slabs for small replies; larger replies get one of their own. */
export const SMALL_SLAB_BYTES: number = 128 * 1024;

/** Room for headers in a slab of a power of two of payload. */
const HEADROOM_BYTES = 64;

/**
 * Reply buffers by size class, reused last in, first out. What they hold is data of earlier replies: whoever takes one
 * overwrites each byte before sending it.
 */
export class SlabPool {
  readonly #maxRetainedBytes: number;
  readonly #free = new Map<number, Slab[]>();
  #retainedBytes = 0;

  constructor(maxRetainedBytes: number) {
    this.#maxRetainedBytes = maxRetainedBytes;
  }

  /** A slab with room for at least `bytes`. */
  take(bytes: number): Slab {
    const size = bytes <= SMALL_SLAB_BYTES ? SMALL_SLAB_BYTES : sizeClass(bytes);
    const slab = this.#free.get(size)?.pop();
    if (slab === undefined) return new Slab(size);
    this.#retainedBytes -= size;
    return slab;
  }

  /** Takes back a slab that nobody uses any more. */
  give(slab: Slab): void {
    const size = slab.buffer.length;
    if (this.#retainedBytes + size > this.#maxRetainedBytes) return;
    slab.usedBytes = 0;
    slab.pinnedBytes = 0;
    const list = this.#free.get(size);
    if (list === undefined) this.#free.set(size, [slab]);
    else list.push(slab);
    this.#retainedBytes += size;
  }
}

function sizeClass(bytes: number): number {
  let size = SMALL_SLAB_BYTES;
  while (size + HEADROOM_BYTES < bytes) size *= 2;
  return size + HEADROOM_BYTES;
}
