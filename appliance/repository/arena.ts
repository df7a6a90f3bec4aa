// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';

/**
 * One block of memory that every thread sees: what workers hash, encode and decode lies in it, and messages carry only
 * offsets. Its pages cost nothing until they are touched.
 */
export class Arena {
  readonly shared: SharedArrayBuffer;
  readonly bytes: Buffer;
  #used = 0;

  constructor(sizeBytes: number) {
    this.shared = new SharedArrayBuffer(sizeBytes);
    this.bytes = Buffer.from(this.shared);
  }

  /** Hands out the next `lengthBytes` for good; returns their offset, a multiple of 64. */
  allocate(lengthBytes: number): number {
    const offset = Math.ceil(this.#used / 64) * 64;
    invariant(offset + lengthBytes <= this.bytes.length, 'the arena is large enough for all of its pools');
    this.#used = offset + lengthBytes;
    return offset;
  }
}

/** A piece of the arena, owned by whoever acquired it until it is released. */
export interface Slab {
  readonly offset: number;
  readonly buffer: Buffer;
}

/** A fixed number of slabs of one size: the bound of the bytes in flight. Waiters are served in order. */
export class SlabPool {
  readonly slabBytes: number;
  readonly #free: Slab[] = [];
  readonly #waiting: { resolve: (slab: Slab) => void; reject: (error: Error) => void; cleanUp: () => void }[] = [];

  constructor(arena: Arena, count: number, slabBytes: number) {
    this.slabBytes = slabBytes;
    for (let i = 0; i < count; i++) {
      const offset = arena.allocate(slabBytes);
      this.#free.push({ offset, buffer: arena.bytes.subarray(offset, offset + slabBytes) });
    }
  }

  /** Waits for a free slab; its content is undefined. @throws ApplianceError ABORTED */
  acquire(signal?: AbortSignal): Promise<Slab> {
    if (signal?.aborted) return Promise.reject(aborted(signal));
    const slab = this.#free.pop();
    if (slab !== undefined) return Promise.resolve(slab);
    return new Promise((resolve, reject) => {
      const waiter = { resolve, reject, cleanUp: (): void => signal?.removeEventListener('abort', onAbort) };
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
        reject(aborted(signal));
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiting.push(waiter);
    });
  }

  release(slab: Slab): void {
    const waiter = this.#waiting.shift();
    if (waiter === undefined) this.#free.push(slab);
    else {
      waiter.cleanUp();
      waiter.resolve(slab);
    }
  }
}

function aborted(signal: AbortSignal | undefined): ApplianceError {
  return new ApplianceError('ABORTED', 'the work was interrupted', { cause: signal?.reason });
}
