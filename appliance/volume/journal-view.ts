// SPDX-License-Identifier: Apache-2.0
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ApplianceError } from '../core/errors.ts';
import type { Slice } from '../core/extent-map.ts';
import { invariant } from '../core/invariant.ts';
import type { JournalPart } from './journal-part.ts';
import type { DiskRange, WriteLayer } from './write-layer.ts';
import { locationOf, WriteLogIndex } from './write-log-index.ts';
import { WriteLogReader } from './write-log-reader.ts';

/** Records that are entered between two turns of the event loop: a few milliseconds. */
const RECORDS_PER_TURN = 5_000;

export interface ViewRange {
  /** The base holds everything up to this record. */
  readonly after: number;
  readonly upTo: number;
}

/**
 * What a part of a journal changed, as a layer over the base that holds everything before. It never changes, whatever is
 * appended, folded, sealed or released meanwhile, and it keeps the files that it needs until it is disposed of.
 */
export class JournalView implements WriteLayer, AsyncDisposable {
  readonly after: number;
  readonly upTo: number;
  private readonly index: WriteLogIndex;
  private readonly reader: WriteLogReader;
  private readonly holds: DisposableStack;

  private constructor(range: ViewRange, index: WriteLogIndex, parts: readonly JournalPart[], holds: DisposableStack) {
    this.after = range.after;
    this.upTo = range.upTo;
    this.index = index;
    this.holds = holds;
    const byNumber = new Map(parts.map((part) => [part.number, part]));
    this.reader = new WriteLogReader((number, position, leastBytes) => {
      if (this.holds.disposed) throw new ApplianceError('CLOSED', 'the view of the journal is closed');
      const part = byNumber.get(number);
      invariant(part !== undefined, 'a view has the parts that its index names');
      return part.fetch(position, leastBytes);
    });
  }

  /** Enters the records of a range. `parts` have all of them. WRITE_LOG_CORRUPT, IO_FAILED. */
  static async open(range: ViewRange, parts: readonly JournalPart[]): Promise<JournalView> {
    using holds = new DisposableStack();
    for (const part of parts) holds.use(part.hold());
    const index = new WriteLogIndex();
    let untilTurn = RECORDS_PER_TURN;
    for (const part of parts) {
      const table = await part.table();
      const last = Math.min(range.upTo, part.lastSequence);
      for (let sequence = Math.max(range.after + 1, part.firstSequence); sequence <= last; sequence++) {
        const write = table.writeOf(sequence);
        if (write !== undefined) index.place(write, locationOf(part.number, table.positionOf(sequence)));
        untilTurn -= 1;
        if (untilTurn > 0) continue;
        await nextTurn();
        untilTurn = RECORDS_PER_TURN;
      }
    }
    return new JournalView(range, index, parts, holds.move());
  }

  /** Disks that have records in it, in order. */
  get disks(): number[] {
    return this.index.disks;
  }

  /** Ranges of its index. */
  get indexedRanges(): number {
    return this.index.size;
  }

  slices(place: DiskRange): Slice<number>[] {
    return this.index.slices(place);
  }

  sliceIterator(place: DiskRange): Generator<Slice<number>, void, undefined> {
    return this.index.sliceIterator(place);
  }

  read(location: number, from: number, into: Buffer): Promise<void> {
    return this.reader.read(location, from, into);
  }

  readCached(location: number, from: number, into: Buffer): boolean {
    return this.reader.readCached(location, from, into);
  }

  /** Lets go of the journal's files. Idempotent; nobody reads any more. */
  async close(): Promise<void> {
    this.holds.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
