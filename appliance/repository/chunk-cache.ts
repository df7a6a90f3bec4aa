// SPDX-License-Identifier: Apache-2.0
import type { ContentKey } from '../core/content-id.ts';
import { toError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import type { Arena } from './arena.ts';

interface Slot {
  readonly offset: number;
  readonly buffer: Buffer;
  key: ContentKey | undefined;
  /** Settles when the content is there; undefined once it is. */
  filling: Promise<void> | undefined;
  /** Readers between the end of a fill and their copy: the slot must not be given away. */
  readers: number;
  wasUsed: boolean;
}

/** Fills `slotBytes` of the arena at `offset` with the plain content of `key`, verified. */
export type FillSlot = (key: ContentKey, offset: number) => Promise<void>;

/**
 * Verified plain chunks, each in a slot of the shared arena that workers decode into. Replacement is CLOCK: a slot that
 * was read since the hand passed gets one more round.
 *
 * Invariants: a key is in the map only while its slot holds it or is being filled with it; a slot that is being filled
 * or has readers is never given away; a failed fill leaves the slot empty.
 */
export class ChunkCache {
  readonly #slots: Slot[] = [];
  readonly #byKey = new Map<ContentKey, Slot>();
  readonly #fill: FillSlot;
  readonly #waiting: (() => void)[] = [];
  #hand = 0;

  constructor(arena: Arena, slotBytes: number, options: { readonly slots: number; readonly fill: FillSlot }) {
    this.#fill = options.fill;
    for (let i = 0; i < options.slots; i++) {
      const offset = arena.allocate(slotBytes);
      const buffer = arena.bytes.subarray(offset, offset + slotBytes);
      this.#slots.push({ offset, buffer, key: undefined, filling: undefined, readers: 0, wasUsed: false });
    }
  }

  /** Copies from a cached chunk at once; false when it is not there. */
  tryRead(key: ContentKey, at: number, into: Buffer): boolean {
    const slot = this.#byKey.get(key);
    if (slot === undefined || slot.filling !== undefined) return false;
    slot.wasUsed = true;
    slot.buffer.copy(into, 0, at, at + into.length);
    return true;
  }

  /** Copies `into.length` bytes of the chunk from `at`, decoding it when it is not cached. */
  async read(key: ContentKey, at: number, into: Buffer): Promise<void> {
    for (;;) {
      const slot = this.#byKey.get(key) ?? this.#take(key);
      if (slot === undefined) {
        await new Promise<void>((resolve) => this.#waiting.push(resolve));
        continue;
      }
      slot.wasUsed = true;
      slot.readers += 1;
      try {
        if (slot.filling !== undefined) await slot.filling;
        slot.buffer.copy(into, 0, at, at + into.length);
        return;
      } finally {
        slot.readers -= 1;
        if (slot.readers === 0) this.#waiting.shift()?.();
      }
    }
  }

  /** Forgets everything that is not in use, so that the next reads come from the store. */
  clear(): void {
    for (const slot of this.#slots) {
      if (slot.filling === undefined && slot.readers === 0) this.#empty(slot);
    }
  }

  #take(key: ContentKey): Slot | undefined {
    const slot = this.#victim();
    if (slot === undefined) return undefined;
    this.#empty(slot);
    slot.key = key;
    this.#byKey.set(key, slot);
    slot.filling = this.#fill(key, slot.offset).then(
      () => {
        slot.filling = undefined;
      },
      (thrown) => {
        slot.filling = undefined;
        invariant(slot.key === key, 'a slot keeps its key while it is filled');
        this.#empty(slot);
        throw toError(thrown);
      },
    );
    return slot;
  }

  #victim(): Slot | undefined {
    for (let step = 0; step < 2 * this.#slots.length; step++) {
      const slot = this.#slots[this.#hand];
      this.#hand = (this.#hand + 1) % this.#slots.length;
      if (slot === undefined || slot.filling !== undefined || slot.readers > 0) continue;
      if (slot.wasUsed) slot.wasUsed = false;
      else return slot;
    }
    return undefined;
  }

  #empty(slot: Slot): void {
    if (slot.key !== undefined) this.#byKey.delete(slot.key);
    slot.key = undefined;
    slot.wasUsed = false;
  }
}
