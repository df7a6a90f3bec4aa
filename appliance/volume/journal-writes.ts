// SPDX-License-Identifier: Apache-2.0
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Range } from '../core/extents.ts';
import type { JournalParts } from './journal-part.ts';
import type { WriteFact } from './record-table.ts';

/** Which changes are asked for; all conditions hold together, bounds included. */
export interface WriteQuery {
  readonly fromUs?: number;
  readonly toUs?: number;
  readonly fromSequence?: number;
  readonly toSequence?: number;
  /** Number of the disk in the log. */
  readonly disk?: number;
  /** Only changes that touch it. */
  readonly range?: Range;
}

/** Records that are looked at between two turns of the event loop. */
const RECORDS_PER_TURN = 5_000;

/** Changes of disks in order, from the headers alone. */
export async function* listWrites(parts: JournalParts, query: WriteQuery): AsyncGenerator<WriteFact, void, undefined> {
  const { fromUs = 0, toUs = Number.POSITIVE_INFINITY, fromSequence = 0, toSequence = Number.MAX_SAFE_INTEGER } = query;
  let untilTurn = RECORDS_PER_TURN;
  for (const part of parts.between(fromSequence, toSequence)) {
    if (part.lastTimeUs < fromUs || part.firstTimeUs > toUs) continue;
    using _ = part.hold();
    const table = await part.table();
    const early = fromUs === 0 ? undefined : table.lastAt(fromUs - 1);
    const first = Math.max(fromSequence, part.firstSequence, (early ?? 0) + 1);
    const last = Math.min(toSequence, part.lastSequence);
    for (let sequence = first; sequence <= last; sequence++) {
      if (table.timeOf(sequence) > toUs) return;
      const write = table.writeOf(sequence);
      if (write !== undefined && isWanted(write, query)) yield write;
      untilTurn -= 1;
      if (untilTurn > 0) continue;
      await nextTurn();
      untilTurn = RECORDS_PER_TURN;
    }
  }
}

function isWanted(write: WriteFact, { disk, range }: WriteQuery): boolean {
  if (disk !== undefined && write.disk !== disk) return false;
  if (range === undefined) return true;
  return write.offset < range.offset + range.length && range.offset < write.offset + write.length;
}
