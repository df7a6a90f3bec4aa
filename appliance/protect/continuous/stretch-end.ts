// SPDX-License-Identifier: Apache-2.0
import type { SessionMoment } from './ports.ts';

interface Sample {
  readonly elapsedMs: number;
  readonly moment: SessionMoment;
}

/** How long after the last look at a mirror its end may be told, in samples. */
const MAX_SAMPLES = 300;

/**
 * Up to which moment a stretch is whole whose mirror of one disk somebody else has ended: the end is told a few milliseconds
 * late, and what the other disks wrote meanwhile stands in the journal without what that disk wrote.
 */
export class StretchEnd {
  #samples: Sample[] = [];

  /** Notes the newest state, several times a second. */
  note(elapsedMs: number, moment: SessionMoment): void {
    this.#samples.push({ elapsedMs, moment });
    if (this.#samples.length > MAX_SAMPLES) this.#samples = this.#samples.slice(-MAX_SAMPLES / 2);
  }

  /**
   * The newest state at which all disks were mirrored for sure: for each that was taken, at the last look that found its mirror
   * whole, or, when that is later, at its own last change. Undefined when none was taken.
   */
  before(
    taken: readonly { readonly seenMs: number; readonly last: SessionMoment | undefined }[],
  ): SessionMoment | undefined {
    let end: SessionMoment | undefined;
    for (const { seenMs, last } of taken) {
      const seen = this.#samples.findLast(({ elapsedMs }) => elapsedMs <= seenMs)?.moment;
      const own = later(seen, last) ?? this.#samples[0]?.moment;
      if (own !== undefined && (end === undefined || own.sequence < end.sequence)) end = own;
    }
    return end;
  }
}

function later(a: SessionMoment | undefined, b: SessionMoment | undefined): SessionMoment | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  return a.sequence >= b.sequence ? a : b;
}
