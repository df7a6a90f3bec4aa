// SPDX-License-Identifier: Apache-2.0
import { type Extent, endOf } from '../core/extents.ts';
import { invariant } from '../core/invariant.ts';

/** Chunks that are to be read from the source, or are known to be zeroes. */
export interface PlannedRun {
  readonly first: number;
  readonly count: number;
  readonly action: 'read' | 'zero';
}

/**
 * Turns extents (sorted, disjoint, any alignment; what they leave out does not change) into runs of whole chunks, in
 * order. A chunk that an extent of data touches is read whole, as is one that is only partly covered: the rest of it
 * comes from the source too, which shows one consistent moment. Only a chunk that zero extents cover completely is zero.
 */
export async function* planChunks(
  extents: AsyncIterable<Extent> | Iterable<Extent>,
  chunkBytes: number,
  sizeBytes: number,
): AsyncGenerator<PlannedRun, void, void> {
  const planner = new Planner(chunkBytes, sizeBytes);
  for await (const extent of extents) {
    planner.add(extent);
    yield* planner.take();
  }
  planner.end();
  yield* planner.take();
}

/** State of the chunk at the edge between two extents, and the run that is being put together. */
class Planner {
  readonly #chunkBytes: number;
  readonly #sizeBytes: number;
  #previousEnd = 0;
  /** The chunk whose extents are not all known yet: bytes that zero extents cover of it, or -1 when it must be read. */
  #edgeChunk = -1;
  #edgeZeroBytes = 0;
  #run: { first: number; count: number; action: 'read' | 'zero' } | undefined;
  readonly #ready: PlannedRun[] = [];

  constructor(chunkBytes: number, sizeBytes: number) {
    this.#chunkBytes = chunkBytes;
    this.#sizeBytes = sizeBytes;
  }

  add(extent: Extent): void {
    invariant(
      extent.offset >= this.#previousEnd && endOf(extent) <= this.#sizeBytes,
      'extents are sorted, disjoint and inside the disk',
    );
    this.#previousEnd = endOf(extent);
    const isZero = extent.kind !== 'data';
    let at = extent.offset;
    while (at < endOf(extent)) {
      const chunk = Math.floor(at / this.#chunkBytes);
      const chunkStart = chunk * this.#chunkBytes;
      const wholeChunks = at === chunkStart ? Math.floor((endOf(extent) - at) / this.#chunkBytes) : 0;
      if (wholeChunks > 0) {
        this.#closeEdge();
        this.#emit({ first: chunk, count: wholeChunks, action: isZero ? 'zero' : 'read' });
        at += wholeChunks * this.#chunkBytes;
        continue;
      }
      const end = Math.min(endOf(extent), chunkStart + this.#chunkBytes);
      this.#touchEdge(chunk, isZero ? end - at : undefined);
      at = end;
    }
  }

  end(): void {
    this.#closeEdge();
    if (this.#run !== undefined) this.#ready.push(this.#run);
    this.#run = undefined;
  }

  *take(): Generator<PlannedRun> {
    yield* this.#ready.splice(0);
  }

  #touchEdge(chunk: number, zeroBytes: number | undefined): void {
    if (this.#edgeChunk !== chunk) this.#closeEdge();
    if (this.#edgeChunk === -1) this.#edgeZeroBytes = 0;
    this.#edgeChunk = chunk;
    this.#edgeZeroBytes += zeroBytes ?? Number.NEGATIVE_INFINITY;
  }

  #closeEdge(): void {
    if (this.#edgeChunk === -1) return;
    const chunkStart = this.#edgeChunk * this.#chunkBytes;
    const chunkLength = Math.min(this.#chunkBytes, this.#sizeBytes - chunkStart);
    const action = this.#edgeZeroBytes === chunkLength ? 'zero' : 'read';
    this.#emit({ first: this.#edgeChunk, count: 1, action });
    this.#edgeChunk = -1;
  }

  #emit(run: PlannedRun): void {
    const open = this.#run;
    if (open !== undefined && open.action === run.action && open.first + open.count === run.first) {
      open.count += run.count;
      return;
    }
    if (open !== undefined) this.#ready.push(open);
    this.#run = { ...run };
  }
}
