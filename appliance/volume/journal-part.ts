// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../core/invariant.ts';
import type { RecordTable } from './record-table.ts';
import type { WriteRates } from './write-rates.ts';

/** One segment of a journal, as whatever it is kept. */
export interface JournalPart {
  /** Of the segment. */
  readonly number: number;
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly firstTimeUs: number;
  readonly lastTimeUs: number;
  /** Bytes of its file. */
  readonly sizeBytes: number;
  readonly rates: WriteRates;
  /** Its headers. WRITE_LOG_CORRUPT, IO_FAILED. */
  table(): Promise<RecordTable>;
  /** The plain data of a record, verified: at least its first `leastBytes`. WRITE_LOG_CORRUPT, IO_FAILED. */
  fetch(position: number, leastBytes: number): Promise<Buffer>;
  /** Its file stays readable until the result is disposed of, whatever becomes of its name. */
  hold(): Disposable;
}

/** The parts of a journal in order, without a gap. */
export class JournalParts {
  private readonly parts: JournalPart[] = [];

  get all(): readonly JournalPart[] {
    return this.parts;
  }

  get first(): JournalPart | undefined {
    return this.parts[0];
  }

  get last(): JournalPart | undefined {
    return this.parts.at(-1);
  }

  append(part: JournalPart): void {
    const { last } = this;
    const isNext = last === undefined || (part.number > last.number && part.firstSequence === last.lastSequence + 1);
    invariant(isNext, 'parts follow each other without a gap');
    this.parts.push(part);
  }

  /** Another form of a part takes its place. */
  replace(part: JournalPart): void {
    const index = this.parts.findIndex(({ number }) => number === part.number);
    invariant(index !== -1, 'a part that is replaced is there');
    this.parts[index] = part;
  }

  removeFirst(): void {
    this.parts.shift();
  }

  /** The part that has a record, if one does. */
  withSequence(sequence: number): JournalPart | undefined {
    const index = this.lastWhere((part) => part.firstSequence <= sequence);
    const part = this.parts[index];
    return part !== undefined && sequence <= part.lastSequence ? part : undefined;
  }

  /** The last part with a record that is not later than a time. */
  withTime(timeUs: number): JournalPart | undefined {
    return this.parts[this.lastWhere((part) => part.firstTimeUs <= timeUs && part.lastSequence >= part.firstSequence)];
  }

  /** Parts with records in [from, to], in order. */
  between(from: number, to: number): JournalPart[] {
    return this.parts.filter((part) => part.lastSequence >= from && part.firstSequence <= to);
  }

  private lastWhere(isBefore: (part: JournalPart) => boolean): number {
    let low = 0;
    let high = this.parts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const part = this.parts[middle];
      if (part !== undefined && isBefore(part)) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}
