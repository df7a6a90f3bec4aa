// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { Journal } from '../../appliance/volume/journal.ts';
import { layeredDevice } from '../../appliance/volume/logged-device.ts';
import type { Comparison } from '../comparison.ts';
import { Seeded } from '../statistics.ts';
import { EXPORT_NAME, JOURNAL_OPTIONS, startJournalServer } from './journal-server.ts';
import type { ContinuousRun } from './run.ts';

const SLOT_BYTES = 4096;
const LANES = 16;
const SLOTS_OF_LANE = 64;
const DISK_BYTES: number = LANES * SLOTS_OF_LANE * SLOT_BYTES;
/** Small, so that some kills come in the middle of folding and of sealing. */
const FOLD_RECORDS = 2000;
const SEGMENT_BYTES: number = 4 * 1024 ** 2;
const LONGEST_LOAD_MS = 300;
/** Then a new journal is begun. */
const KILLS_OF_JOURNAL = 10;

/** What a client knows: by slot, the version that was acknowledged last, and the one that was sent last. */
interface Slots {
  readonly acknowledged: Uint32Array;
  readonly sent: Uint32Array;
}

interface Tally {
  writes: number;
  lost: number;
}

/** Kills the appliance's end of a mirror at random, again and again, and looks for everything that it had acknowledged. */
export async function kills(bench: ContinuousRun): Promise<Comparison[]> {
  const random = new Seeded(bench.options.seed);
  const count = bench.amount(100, 10);
  const tally: Tally = { writes: 0, lost: 0 };
  let directory = '';
  let slots = newSlots();
  for (let kill = 0; kill < count; kill++) {
    if (kill % KILLS_OF_JOURNAL === 0) {
      bench.say(`kills: ${kill} of ${count}`);
      if (directory !== '') await bench.workspace.remove(directory);
      directory = bench.workspace.path('killed');
      slots = newSlots();
    }
    tally.writes += await writeUntilKilled(bench, { directory, slots, random });
    tally.lost += await countLost(directory, slots);
  }
  await bench.workspace.remove(directory);
  return [
    {
      what: `acknowledged writes lost after \`kill -9\`, ${count} random kills`,
      unit: 'writes',
      ours: { label: 'lost', samples: [tally.lost] },
      other: undefined,
      target: { kind: 'at most', limit: 0 },
      remark: `of ${tally.writes.toLocaleString('en-US')} acknowledged, 16 in flight; seed ${bench.options.seed}`,
    },
  ];
}

function newSlots(): Slots {
  const length = LANES * SLOTS_OF_LANE;
  return { acknowledged: new Uint32Array(length), sent: new Uint32Array(length) };
}

/** Settles with the number of writes that were acknowledged before the server was killed. */
async function writeUntilKilled(
  bench: ContinuousRun,
  { directory, slots, random }: { readonly directory: string; readonly slots: Slots; readonly random: Seeded },
): Promise<number> {
  const options = { directory, sizeBytes: DISK_BYTES, foldRecords: FOLD_RECORDS, segmentBytes: SEGMENT_BYTES };
  await using server = await startJournalServer(bench.workspace, options);
  const client = await connectNbd(server.uri(EXPORT_NAME), { connections: 1, reconnect: false });
  const forMs = random.below(LONGEST_LOAD_MS);
  let writes = 0;
  let isKilled = false;
  const lane = async (number: number): Promise<void> => {
    const choice = new Seeded(random.next());
    const data = Buffer.alloc(SLOT_BYTES);
    for (;;) {
      const slot = number * SLOTS_OF_LANE + choice.below(SLOTS_OF_LANE);
      const version = (slots.sent[slot] ?? 0) + 1;
      slots.sent[slot] = version;
      for (let at = 0; at < SLOT_BYTES; at += 8) {
        data.writeUInt32LE(version, at);
        data.writeUInt32LE(slot, at + 4);
      }
      try {
        await client.write(slot * SLOT_BYTES, data);
      } catch (error) {
        if (isKilled) return;
        throw error;
      }
      slots.acknowledged[slot] = version;
      writes += 1;
    }
  };
  const lanes = Promise.all(Array.from({ length: LANES }, (_, number) => lane(number)));
  await Promise.race([delay(forMs), lanes]);
  isKilled = true;
  await server.close();
  await lanes;
  await client.close();
  return writes;
}

/** Opens what is left as the next life of the appliance would. @throws ApplianceError TOOL_FAILED for what nobody wrote */
async function countLost(directory: string, { acknowledged, sent }: Slots): Promise<number> {
  await using journal = await Journal.open(directory, JOURNAL_OPTIONS);
  const { sequence } = await journal.resolve('newest');
  await using view = await journal.openView(0, sequence);
  await using base = memoryDevice({ sizeBytes: DISK_BYTES });
  const content = Buffer.alloc(DISK_BYTES);
  await layeredDevice({ base, layer: view, disk: 0 }).read(0, content);
  let lost = 0;
  for (const [slot, last] of acknowledged.entries()) {
    const found = content.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES);
    const version = found.readUInt32LE(0);
    const isWhole = version === 0 || isFilledWith(found, version, slot);
    if (!isWhole || version > (sent[slot] ?? 0)) {
      throw new ApplianceError('TOOL_FAILED', `slot ${slot} holds what nobody wrote, after ${last} was acknowledged`);
    }
    if (version < last) lost += last - version;
    // What was sent and not acknowledged may be there; the next versions come after it.
    sent[slot] = Math.max(version, last);
    acknowledged[slot] = Math.max(version, last);
  }
  return lost;
}

function isFilledWith(bytes: Buffer, version: number, slot: number): boolean {
  for (let at = 0; at < bytes.length; at += 8) {
    if (bytes.readUInt32LE(at) !== version || bytes.readUInt32LE(at + 4) !== slot) return false;
  }
  return true;
}
