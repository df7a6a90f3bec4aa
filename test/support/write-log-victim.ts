// SPDX-License-Identifier: Apache-2.0
import { writeSync } from 'node:fs';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { loggedDevice } from '../../appliance/volume/logged-device.ts';
import { WriteLog } from '../../appliance/volume/write-log.ts';
import { MACHINE } from './write-log-model.ts';

/*
 * A process that writes to a log until it is killed: `node write-log-victim.ts DIRECTORY KEY-HEX FIRST-VERSION`. Each
 * lane counts up the version in its own slot of 8 KiB; after each write that was acknowledged (every fourth with FUA) it
 * writes one line `slot version` to standard output at once.
 */

export const SLOT_BYTES = 8192;
export const SLOTS = 16;

if (import.meta.main) {
  const [directory = '', keyHex = '', first = '1'] = process.argv.slice(2);
  const key = keyHex === '' ? null : Buffer.from(keyHex, 'hex');
  const log = await WriteLog.open(directory, { key, machineId: MACHINE, segmentBytes: 1024 * 1024 });
  const base = memoryDevice({ sizeBytes: SLOTS * SLOT_BYTES });
  const device = loggedDevice({ base, log, disk: 0 });
  writeSync(1, 'open\n');
  const lane = async (slot: number): Promise<never> => {
    for (let version = Number(first); ; version++) {
      const data = Buffer.alloc(SLOT_BYTES);
      for (let at = 0; at < SLOT_BYTES; at += 4) data.writeUInt32LE(version, at);
      await device.write(slot * SLOT_BYTES, data, { fua: version % 4 === 0 });
      writeSync(1, `${slot} ${version}\n`);
    }
  };
  await Promise.all(Array.from({ length: SLOTS }, (_, slot) => lane(slot)));
}
