// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice, BlockFeatures, BlockLimits, WriteOptions } from '../../block/block-device.ts';
import { checked } from '../../block/checked-device.ts';
import { RangeLock } from '../../block/range-lock.ts';
import { ExtentMap } from '../../core/extent-map.ts';
import { type Extent, endOf, type Range } from '../../core/extents.ts';

/** Unit in which data is compared with what the volume holds: file systems write in it. */
const COMPARE_BYTES = 4096;
/** Bytes that a request reads of the volume at once. */
const PIECE_BYTES: number = 256 * 1024;
/** Bytes of a claim that are looked at while requests for them wait. */
const SETTLE_BYTES: number = 64 * 1024 * 1024;
const MAX_REQUEST_BYTES: number = 32 * 1024 * 1024;
/** Value of the ranges that a request has declared to be zero. */
const CLAIMED = 1;

/** Tells of whole chunks of a volume, without reading them, that they hold a content. */
export interface KnownContent {
  readonly chunkBytes: number;
  /** False says nothing. */
  holds(offset: number, data: Buffer): Promise<boolean>;
}

/**
 * What a mirror writes to while it copies a disk that the volume (recovery point and log) mostly holds already: only what
 * differs is written to the volume. QEMU first zeroes the whole target, then copies in no particular order, between
 * writes of the guest; zeroes and trims are therefore kept as claims in memory until `settle`, and a later write takes its
 * range out of them again.
 *
 * Invariant: with every claim carried out, the volume reads what was last asked for, in every range that was asked for.
 * Overlapping requests run one after the other. Reads see the claims.
 *
 * Closing it does not close the volume. Errors: those of the volume.
 */
export class SeedingTarget implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits = { minimumBytes: 1, preferredBytes: 4096, maximumBytes: MAX_REQUEST_BYTES };
  readonly features: BlockFeatures = {
    isReadOnly: false,
    canFlush: true,
    canFua: true,
    canTrim: true,
    canZero: true,
    canFastZero: true,
    canCache: false,
    canExtents: false,
    isMultiConnSafe: true,
  };
  readonly #volume: BlockDevice;
  readonly #known: KnownContent | undefined;
  readonly #claims = new ExtentMap<number>();
  readonly #locks = new RangeLock();
  #isSettled = false;
  #differing = 0;
  #equal = 0;

  /** `volume` takes any byte, and reads at once what was written to it. */
  constructor(volume: BlockDevice, known?: KnownContent) {
    this.#volume = volume;
    this.#known = known;
    this.sizeBytes = volume.sizeBytes;
  }

  /** Bytes that were written to the volume, and that it held already. */
  get counts(): { readonly differing: number; readonly equal: number } {
    return { differing: this.#differing, equal: this.#equal };
  }

  async read(offset: number, into: Buffer): Promise<void> {
    await this.#locks.run({ offset, length: into.length }, async () => {
      await this.#volume.read(offset, into);
      for (const slice of this.#claims.slices({ offset, length: into.length })) {
        if (slice.value !== undefined) into.fill(0, slice.offset - offset, endOf(slice) - offset);
      }
    });
  }

  async write(offset: number, data: Buffer, options: WriteOptions = {}): Promise<void> {
    const range = { offset, length: data.length };
    await this.#locks.run(range, async () => {
      await this.#writeDiffering(offset, data);
      this.#claims.delete(range);
    });
    if (options.fua === true) await this.#volume.flush();
  }

  async zero(range: Range, options: WriteOptions = {}): Promise<void> {
    await this.#locks.run(range, async () => {
      if (this.#isSettled) await this.#zeroData(range);
      else this.#claim(range);
    });
    if (options.fua === true) await this.#volume.flush();
  }

  async trim(range: Range, options: WriteOptions = {}): Promise<void> {
    await this.zero(range, options);
  }

  async flush(): Promise<void> {
    await this.#volume.flush();
  }

  async cache(): Promise<void> {}

  extents(range: Range): Promise<Extent[]> {
    return Promise.resolve([{ offset: range.offset, length: range.length, kind: 'data' }]);
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}

  /**
   * Carries the claims out: what they cover is zeroed in the volume where that has data. From the call on, zeroes and trims
   * are carried out at once. Requests may go on meanwhile. After an error it can be called again.
   */
  async settle(signal?: AbortSignal): Promise<void> {
    this.#isSettled = true;
    for (let claim = this.#firstClaim(); claim !== undefined; claim = this.#firstClaim()) {
      signal?.throwIfAborted();
      const range = { offset: claim.offset, length: Math.min(claim.length, SETTLE_BYTES) };
      await this.#locks.run(range, async () => {
        for (const slice of Array.from(this.#claims.slices(range))) {
          if (slice.value !== undefined) await this.#zeroData(slice);
        }
        this.#claims.delete(range);
      });
    }
  }

  #firstClaim(): Range | undefined {
    for (const { offset, length } of this.#claims.entries()) return { offset, length };
    return undefined;
  }

  /** Bytes of a claim count from the start of the disk, so that neighbours merge. */
  #claim(range: Range): void {
    this.#claims.set(range, CLAIMED, range.offset);
  }

  async #writeDiffering(offset: number, data: Buffer): Promise<void> {
    const unit = Math.min(PIECE_BYTES, this.#known?.chunkBytes ?? PIECE_BYTES);
    for (let done = 0; done < data.length; ) {
      const pieceEnd = Math.min(data.length, done + unit - ((offset + done) % unit));
      const piece = data.subarray(done, pieceEnd);
      if ((await this.#known?.holds(offset + done, piece)) === true) {
        this.#equal += piece.length;
        done = pieceEnd;
        continue;
      }
      const before = Buffer.allocUnsafe(piece.length);
      await this.#volume.read(offset + done, before);
      let differing = 0;
      for (const run of differingRuns(offset + done, piece, before)) {
        await this.#volume.write(run.offset, data.subarray(run.offset - offset, endOf(run) - offset));
        differing += run.length;
      }
      this.#differing += differing;
      this.#equal += piece.length - differing;
      done = pieceEnd;
    }
  }

  /** Zeroes what has data. The lock of the range is held. */
  async #zeroData(range: Range): Promise<void> {
    for (let offset = range.offset; offset < endOf(range); ) {
      const extents = await this.#volume.extents({ offset, length: endOf(range) - offset });
      for (const extent of extents) {
        offset = endOf(extent);
        if (extent.kind !== 'data') continue;
        await this.#volume.zero({ offset: extent.offset, length: extent.length });
        this.#differing += extent.length;
      }
    }
  }
}

/** The same behind the one check of arguments. */
export function seedingTarget(
  volume: BlockDevice,
  known?: KnownContent,
): { readonly target: SeedingTarget; readonly device: BlockDevice } {
  const target = new SeedingTarget(volume, known);
  return { target, device: checked(target) };
}

/** Blocks of the disk in which two buffers differ, neighbours merged and cut at the buffers' ends. */
function differingRuns(offset: number, a: Buffer, b: Buffer): Range[] {
  if (a.equals(b)) return [];
  const runs: { offset: number; length: number }[] = [];
  for (let start = 0; start < a.length; ) {
    const end = Math.min(a.length, start + COMPARE_BYTES - ((offset + start) % COMPARE_BYTES));
    if (a.compare(b, start, end, start, end) !== 0) {
      const last = runs.at(-1);
      if (last !== undefined && endOf(last) === offset + start) last.length += end - start;
      else runs.push({ offset: offset + start, length: end - start });
    }
    start = end;
  }
  return runs;
}
