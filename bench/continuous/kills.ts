// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../../appliance/core/clock.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { Journal } from '../../appliance/volume/journal.ts';
import type { Comparison } from '../comparison.ts';
import { Seeded } from '../statistics.ts';
import { EXPORT_NAME, JOURNAL_OPTIONS, newestContent, startJournalServer } from './journal-server.ts';
import { BLOCK_BYTES, NumberedBlocks } from './numbered-blocks.ts';
import type { ContinuousRun } from './run.ts';

const LANES = 16;
const BLOCKS_OF_LANE = 64;
/** Small, so that some kills come in the middle of folding and of sealing. */
const FOLD_RECORDS = 2000;
const SEGMENT_BYTES: number = 4 * 1024 ** 2;
const LONGEST_LOAD_MS = 300;
/** Then a new journal is begun. */
const KILLS_OF_JOURNAL = 10;

interface Scene {
  readonly directory: string;
  readonly blocks: NumberedBlocks;
  readonly random: Seeded;
}

/** Kills the appliance's end of a mirror at random, again and again, and looks for everything that it had acknowledged. */
export async function kills(bench: ContinuousRun): Promise<Comparison[]> {
  const random = new Seeded(bench.options.seed);
  const count = bench.amount(100, 10);
  let [writes, lost] = [0, 0];
  for (let kill = 0; kill < count; kill += KILLS_OF_JOURNAL) {
    bench.say(`kills: ${kill} of ${count}`);
    const scene = {
      directory: bench.workspace.path('killed'),
      blocks: new NumberedBlocks(LANES * BLOCKS_OF_LANE),
      random,
    };
    for (let n = 0; n < Math.min(KILLS_OF_JOURNAL, count - kill); n++) {
      await writeUntilKilled(bench, scene);
      writes += scene.blocks.acknowledgedCount;
      // As the next life of the appliance would.
      await using journal = await Journal.open(scene.directory, JOURNAL_OPTIONS);
      lost += scene.blocks.takeLost(await newestContent(journal, scene.blocks.sizeBytes)).length;
    }
    await bench.workspace.remove(scene.directory);
  }
  return [
    {
      what: `acknowledged writes lost after \`kill -9\`, ${count} random kills`,
      unit: 'writes',
      ours: { label: 'lost', samples: [lost] },
      other: undefined,
      target: { kind: 'at most', limit: 0 },
      remark: `of ${writes.toLocaleString('en-US')} acknowledged, ${LANES} in flight; seed ${bench.options.seed}`,
    },
  ];
}

async function writeUntilKilled(bench: ContinuousRun, { directory, blocks, random }: Scene): Promise<void> {
  const { sizeBytes } = blocks;
  const options = { directory, sizeBytes, foldRecords: FOLD_RECORDS, segmentBytes: SEGMENT_BYTES };
  await using server = await startJournalServer(bench.workspace, options);
  await using client = await connectNbd(server.uri(EXPORT_NAME), { connections: 1, reconnect: false });
  const forMs = random.below(LONGEST_LOAD_MS);
  let isKilled = false;
  const lane = async (laneNumber: number): Promise<void> => {
    const choice = new Seeded(random.next());
    const data = Buffer.alloc(BLOCK_BYTES);
    for (;;) {
      const block = laneNumber * BLOCKS_OF_LANE + choice.below(BLOCKS_OF_LANE);
      const number = blocks.next(block, data);
      try {
        await client.write(block * BLOCK_BYTES, data);
      } catch (error) {
        if (isKilled) return;
        throw error;
      }
      blocks.acknowledge(block, number, systemClock.elapsedMs());
    }
  };
  const lanes = Promise.all(Array.from({ length: LANES }, (_, number) => lane(number)));
  await Promise.race([delay(forMs), lanes]);
  isKilled = true;
  await server.close();
  await lanes;
}
