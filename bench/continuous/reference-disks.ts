// SPDX-License-Identifier: Apache-2.0
import type { GuestWrite } from '../../lab/guest-write.ts';
import type { Seeded } from '../statistics.ts';

export interface ReferenceWrite extends GuestWrite {
  readonly disk: number;
  /** A moment after it and before the next one, ms since 1970. */
  readonly afterMs: number;
  /** Made while the machine was protected: the moment can be recovered. */
  readonly isKept: boolean;
}

/** A moment, and the disks as they were. The buffers are the reference's: they are other ones with the next moment. */
export interface ReferenceMoment {
  readonly afterMs: number;
  readonly contents: readonly Buffer[];
}

/** What disks hold at any moment: a list of writes to disks of zeroes, applied one after the other. */
export class ReferenceDisks {
  readonly #writes: ReferenceWrite[] = [];
  readonly #disks: number;
  readonly #sizeBytes: number;

  constructor(disks: number, sizeBytes: number) {
    this.#disks = disks;
    this.#sizeBytes = sizeBytes;
  }

  get writeCount(): number {
    return this.#writes.length;
  }

  add(write: ReferenceWrite): void {
    this.#writes.push(write);
  }

  /** Moments after kept writes, oldest first; one may come more than once. */
  *randomMoments(count: number, random: Seeded): Generator<ReferenceMoment> {
    const kept = this.#writes.flatMap(({ isKept }, n) => (isKept ? [n] : []));
    const chosen = Array.from({ length: count }, () => kept[random.below(kept.length)] ?? 0).sort((a, b) => a - b);
    const contents = Array.from({ length: this.#disks }, () => Buffer.alloc(this.#sizeBytes));
    let applied = 0;
    for (const last of chosen) {
      for (; applied <= last; applied++) {
        const write = this.#writes[applied];
        if (write !== undefined) contents[write.disk]?.fill(write.byte, write.offset, write.offset + write.length);
      }
      yield { afterMs: this.#writes[last]?.afterMs ?? 0, contents };
    }
  }
}
