// SPDX-License-Identifier: Apache-2.0
import { openSync, writeSync } from 'node:fs';
import { Journal } from '../../appliance/volume/journal.ts';
import { KEY, MACHINE } from './write-log-model.ts';

/*
 * A process that writes to a journal until it is killed: `node journal-victim.ts DIRECTORY ACKNOWLEDGED FIRST-VERSION`. Each lane counts
 * up the version in its own slot; after each write that was acknowledged it writes one line `slot version sequence` to
 * the file ACKNOWLEDGED at once. Meanwhile the journal is folded, and its segments are sealed by a thread.
 */

export const SLOT_BYTES = 4096;
export const SLOTS = 8;
export const VICTIM_SEGMENT_BYTES: number = 256 * 1024;
const FOLD_WRITES = 150;

if (import.meta.main) {
  const [directory = '', acknowledged = '', first = '1'] = process.argv.slice(2);
  const segmentBytes = VICTIM_SEGMENT_BYTES;
  const journal = await Journal.open(directory, { key: KEY, machineId: MACHINE, segmentBytes });
  await journal.beginStretch('writes');
  const file = openSync(acknowledged, 'a');
  let writes = 0;
  const lane = async (slot: number): Promise<never> => {
    for (let version = Number(first); ; version++) {
      const data = Buffer.alloc(SLOT_BYTES);
      for (let at = 0; at < SLOT_BYTES; at += 4) data.writeUInt32LE(version, at);
      const { sequence } = await journal.append({ disk: 0, offset: slot * SLOT_BYTES, data });
      writeSync(file, `${slot} ${version} ${sequence}\n`);
      writes += 1;
      if (writes % FOLD_WRITES !== 0) continue;
      await journal.folded({ pointId: '0123456789abcdef', sequence: journal.newest.sequence });
    }
  };
  await Promise.all(Array.from({ length: SLOTS }, (_, slot) => lane(slot)));
}
