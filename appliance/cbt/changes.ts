// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { appendExtent, appendRange, type Extent, type ExtentKind, endOf, type Range } from '../core/extents.ts';
import type { NbdDevice } from '../nbd/client/nbd-device.ts';
import { ALLOCATION_STATE, BASE_ALLOCATION } from '../nbd/protocol.ts';
import type { UnchangedZeroWitness } from './source.ts';

/** Asked about at a time; an answer covers as much of it as the server likes. */
const QUERY_BYTES: number = 2 * 1024 ** 3;
const DIRTY = 1;

interface StatusRun {
  readonly length: number;
  readonly flags: number;
}

/** What two lists of status say of the bytes that both cover. */
interface DirtyStatus {
  readonly extents: Extent[];
  readonly covered: number;
  /** Clean, and zeroes now. */
  readonly unchangedZeroes: Range[];
}

/**
 * The dirty parts of a disk with what they hold now: dirty and data is data, dirty and (zero or hole) is an explicit
 * zero that covers the base (qemu's bitmap marks zero writes and discards as dirty), clean is left out.
 * `dirty` and `allocation` begin at `start`; the answer covers the shorter of the two.
 */
export function dirtyExtents(
  start: number,
  dirty: readonly StatusRun[],
  allocation: readonly StatusRun[],
): DirtyStatus {
  const extents: { offset: number; length: number; kind: ExtentKind }[] = [];
  const unchangedZeroes: { offset: number; length: number }[] = [];
  let position = 0;
  const a = new Cursor(dirty);
  const b = new Cursor(allocation);
  while (a.run !== undefined && b.run !== undefined) {
    const length = Math.min(a.left, b.left);
    const offset = start + position;
    if (a.run.flags % 2 === DIRTY) {
      appendExtent(extents, { offset, length, kind: isZero(b.run.flags) ? 'zero' : 'data' });
    } else if (isZero(b.run.flags)) appendRange(unchangedZeroes, { offset, length });
    position += length;
    a.advance(length);
    b.advance(length);
  }
  return { extents, covered: position, unchangedZeroes };
}

/**
 * Streams `dirtyExtents` over a whole export, and tells the witness what is clean and zero. The bitmap's context must have
 * been negotiated by its exact name.
 */
export async function* changedExtents(
  device: NbdDevice,
  bitmapContext: string,
  onUnchangedZero?: UnchangedZeroWitness,
): AsyncGenerator<Extent, void, void> {
  let offset = 0;
  while (offset < device.sizeBytes) {
    const range: Range = { offset, length: Math.min(QUERY_BYTES, device.sizeBytes - offset) };
    const status = await device.blockStatusAll(range);
    const dirty = status.get(bitmapContext);
    const allocation = status.get(BASE_ALLOCATION);
    if (dirty === undefined || allocation === undefined) {
      throw new ApplianceError(
        'NBD_META_CONTEXT_MISSING',
        `the server did not answer for ${bitmapContext} and ${BASE_ALLOCATION}`,
      );
    }
    const { extents, covered, unchangedZeroes } = dirtyExtents(offset, dirty, allocation);
    if (covered === 0) throw new ApplianceError('NBD_PROTOCOL', `the server told nothing about ${offset}`);
    if (onUnchangedZero !== undefined) for (const zero of unchangedZeroes) await onUnchangedZero(zero);
    for (const extent of extents) {
      const length = Math.min(endOf(extent), device.sizeBytes) - extent.offset;
      if (length > 0) yield { ...extent, length };
    }
    offset += covered;
  }
}

/** Only the ZERO bit promises zeroes; a hole without it has undefined content and must be read. */
function isZero(flags: number): boolean {
  return (flags & ALLOCATION_STATE.ZERO) !== 0;
}

class Cursor {
  readonly #runs: readonly StatusRun[];
  #index = 0;
  left: number;

  constructor(runs: readonly StatusRun[]) {
    this.#runs = runs;
    this.left = runs[0]?.length ?? 0;
  }

  get run(): StatusRun | undefined {
    return this.#runs[this.#index];
  }

  advance(length: number): void {
    this.left -= length;
    if (this.left > 0) return;
    this.#index += 1;
    this.left = this.run?.length ?? 0;
  }
}
