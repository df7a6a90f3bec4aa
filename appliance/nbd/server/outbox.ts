// SPDX-License-Identifier: Apache-2.0
import type { Writable } from 'node:stream';
import { type Slab, type SlabPool, SMALL_SLAB_BYTES } from './slab-pool.ts';

/** A run of bytes in a slab, reserved for one reply (or for several that lie side by side, once they are complete). */
export interface Piece {
  readonly slab: Slab;
  readonly start: number;
  end: number;
}

interface Batch {
  readonly pieces: readonly Piece[];
  readonly replies: number;
  readonly costBytes: number;
}

/** Told when replies have left for the kernel, or will never. */
export interface OutboxOwner {
  onRepliesGone(replies: number, costBytes: number): void;
}

/** Replies above this get a slab of their own, so that small ones are not spread over many slabs. */
const LARGE_PIECE_BYTES: number = SMALL_SLAB_BYTES / 4;

/** So much is collected at most before it is written. */
const FLUSH_BYTES = 512 * 1024;

/**
 * The replies of one connection. A reply is built in place: `reserve` room, fill it (the device reads straight behind
 * the header), `push` it. All replies that become complete within one turn of the event loop leave in one write.
 */
export class Outbox {
  readonly #stream: Writable;
  readonly #pool: SlabPool;
  readonly #owner: OutboxOwner;
  readonly #written = new Set<Batch>();
  #current: Slab | undefined;
  #ready: Piece[] = [];
  #readyBytes = 0;
  #readyReplies = 0;
  #readyCostBytes = 0;
  #isFlushPlanned = false;
  #isBurst = false;
  #isClosed = false;

  constructor(stream: Writable, pool: SlabPool, owner: OutboxOwner) {
    this.#stream = stream;
    this.#pool = pool;
    this.#owner = owner;
  }

  get isEmpty(): boolean {
    return this.#ready.length === 0 && this.#written.size === 0;
  }

  /** True while something is on its way that the peer has not taken. */
  get isWaitingForPeer(): boolean {
    return this.#written.size > 0;
  }

  /** Room for one reply. It ends in `push` or `abandon`. */
  reserve(bytes: number): Piece {
    const slab = bytes > LARGE_PIECE_BYTES ? this.#pool.take(bytes) : this.#slabFor(bytes);
    const start = slab.usedBytes;
    slab.usedBytes += bytes;
    slab.pinnedBytes += bytes;
    return { slab, start, end: start + bytes };
  }

  /** Gives a reservation back unused. */
  abandon(piece: Piece): void {
    this.#unpin(piece);
  }

  /** Hands a complete reply over for sending; `costBytes` comes back through `onRepliesGone`. */
  push(piece: Piece, costBytes: number): void {
    if (this.#isClosed) {
      this.#unpin(piece);
      this.#owner.onRepliesGone(1, costBytes);
      return;
    }
    const last = this.#ready.at(-1);
    this.#readyBytes += piece.end - piece.start;
    this.#readyReplies += 1;
    this.#readyCostBytes += costBytes;
    if (last !== undefined && last.slab === piece.slab && last.end === piece.start) last.end = piece.end;
    else this.#ready.push(piece);
    if (this.#readyBytes >= FLUSH_BYTES) this.flush();
    else if (!this.#isBurst) this.#planFlush();
  }

  /** Requests are being taken one after the other; what becomes complete meanwhile waits for `endBurst`. */
  beginBurst(): void {
    this.#isBurst = true;
  }

  endBurst(): void {
    this.#isBurst = false;
    this.flush();
  }

  /** Writes what is complete, now. */
  flush(): void {
    if (this.#ready.length === 0 || this.#isClosed) return;
    const pieces = this.#ready;
    const batch: Batch = { pieces, replies: this.#readyReplies, costBytes: this.#readyCostBytes };
    this.#ready = [];
    this.#readyBytes = 0;
    this.#readyReplies = 0;
    this.#readyCostBytes = 0;
    this.#written.add(batch);
    const finish = (error?: Error | null): void => this.#finish(batch, error !== undefined && error !== null);
    const isVector = pieces.length > 1;
    if (isVector) this.#stream.cork();
    for (let index = 0; index < pieces.length; index++) {
      const { slab, start, end } = pieces[index] as Piece;
      const bytes = slab.buffer.subarray(start, end);
      if (index === pieces.length - 1) this.#stream.write(bytes, finish);
      else this.#stream.write(bytes);
    }
    if (isVector) this.#stream.uncork();
  }

  /** The connection is gone: nothing more is sent, everything held is accounted as gone. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const replies = this.#readyReplies;
    const costBytes = this.#readyCostBytes;
    this.#ready = [];
    this.#readyReplies = 0;
    this.#readyCostBytes = 0;
    if (replies > 0) this.#owner.onRepliesGone(replies, costBytes);
    for (const batch of this.#written) this.#finish(batch, true);
  }

  #planFlush(): void {
    if (this.#isFlushPlanned) return;
    this.#isFlushPlanned = true;
    setImmediate(() => {
      this.#isFlushPlanned = false;
      this.flush();
    });
  }

  #finish(batch: Batch, isLost: boolean): void {
    if (!this.#written.delete(batch)) return;
    // Slabs of a write that did not complete are left to the garbage collector: libuv may still look at them.
    if (!isLost) for (const piece of batch.pieces) this.#unpin(piece);
    this.#owner.onRepliesGone(batch.replies, batch.costBytes);
  }

  #slabFor(bytes: number): Slab {
    const current = this.#current;
    if (current !== undefined && current.usedBytes + bytes <= current.buffer.length) return current;
    this.#current = this.#pool.take(bytes);
    return this.#current;
  }

  #unpin(piece: Piece): void {
    const { slab } = piece;
    slab.pinnedBytes -= piece.end - piece.start;
    if (slab.pinnedBytes > 0) return;
    if (this.#current === slab) this.#current = undefined;
    this.#pool.give(slab);
  }
}
