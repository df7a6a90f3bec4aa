// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../../appliance/core/clock.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import type { Durability } from '../../appliance/protect/continuous/journal-target.ts';
import { ContinuousSession } from '../../appliance/protect/continuous/session.ts';
import { DEFAULT_SESSION_SETTINGS } from '../../appliance/protect/continuous/session-settings.ts';
import type { Journal } from '../../appliance/volume/journal.ts';
import { disk, FakeStorage, MIB } from '../../test/protect/continuous/fakes.ts';
import { CrashingFileSystem } from '../../test/support/crashing-file-system.ts';
import { InlineSealing, openJournal } from '../../test/support/journal-model.ts';
import type { Comparison } from '../comparison.ts';
import { Seeded } from '../statistics.ts';
import { JOURNAL_OPTIONS, newestContent } from './journal-server.ts';
import { NbdMachine } from './nbd-machine.ts';
import { BLOCK_BYTES, NumberedBlocks } from './numbered-blocks.ts';
import type { ContinuousRun } from './run.ts';

const LANES = 4;
const BLOCKS: number = MIB / BLOCK_BYTES;
/** Between two writes of a lane, at most. */
const PAUSE_MS = 8;
const SHORTEST_MS = 300;
const LONGEST_MS = 2500;
/** They wait, mostly. */
const AT_A_TIME = 10;
/** What `durability: group` promises: acknowledged so long ago, and on stable storage. */
const GROUP_COMMIT_MS = 1000;

interface Cut {
  /** How long before the cut the oldest lost write had been acknowledged. */
  readonly oldestLostMs: number;
  readonly lost: number;
  readonly writes: number;
}

/** Cuts the power of the appliance's host under a session: what was not synced is dropped, kept or torn, by a seed. */
export async function powerLoss(bench: ContinuousRun): Promise<Comparison[]> {
  const group = await cutOften(bench, 'group', bench.amount(100, 10));
  const write = await cutOften(bench, 'write', bench.amount(50, 10));
  const sum = (cuts: readonly Cut[], of: (cut: Cut) => number): number =>
    cuts.reduce((total, cut) => total + of(cut), 0);
  const text = (cuts: readonly Cut[]): string =>
    `${sum(cuts, ({ writes }) => writes).toLocaleString('en-US')} acknowledged, ${cuts.length} cuts; seed ${bench.options.seed}`;
  const lost = sum(group, (cut) => cut.lost);
  return [
    {
      what: 'power cut: the oldest lost write had been acknowledged',
      unit: 'ms',
      ours: { label: 'before the cut, at most', samples: [Math.max(...group.map(({ oldestLostMs }) => oldestLostMs))] },
      other: undefined,
      target: { kind: 'at most', limit: GROUP_COMMIT_MS },
      remark: `${lost.toLocaleString('en-US')} lost of ${text(group)}`,
    },
    {
      what: 'power cut: acknowledged writes lost with `--durability write`',
      unit: 'writes',
      ours: { label: 'lost', samples: [sum(write, (cut) => cut.lost)] },
      other: undefined,
      target: { kind: 'at most', limit: 0 },
      remark: `of ${text(write)}`,
    },
  ];
}

async function cutOften(bench: ContinuousRun, durability: Durability, count: number): Promise<Cut[]> {
  const random = new Seeded(bench.options.seed);
  const seeds = Array.from({ length: count }, () => random.next());
  const cuts: Cut[] = [];
  for (let n = 0; n < count; n += AT_A_TIME) {
    bench.say(`power-loss, durability ${durability}: ${n} of ${count}`);
    const batch = seeds.slice(n, n + AT_A_TIME);
    cuts.push(...(await Promise.all(batch.map((seed) => cutOnce(bench, durability, seed)))));
  }
  return cuts;
}

async function cutOnce(bench: ContinuousRun, durability: Durability, seed: number): Promise<Cut> {
  const random = new Seeded(seed);
  const fileSystem = new CrashingFileSystem();
  const blocks = new NumberedBlocks(BLOCKS);
  const machine = new NbdMachine(disk('vda'), bench.workspace.socketPath('cut'));
  const whenProtected = Promise.withResolvers<void>();
  await using journal = await openJournal(setupOf(fileSystem));
  await using session = new ContinuousSession({
    clock: systemClock,
    settings: { ...DEFAULT_SESSION_SETTINGS, durability },
    watch: machine,
    lines: machine,
    journal,
    storage: new FakeStorage(),
    onChange: ({ state }) => {
      if (state === 'protected') whenProtected.resolve();
    },
  });
  session.start();
  await whenProtected.promise;
  const cut = new AbortController();
  const lanes = Promise.all(Array.from({ length: LANES }, (_, lane) => write(machine, blocks, { lane, random, cut })));
  await delay(SHORTEST_MS + random.below(LONGEST_MS - SHORTEST_MS));
  // In one turn: what the disks have, and what the guest knows.
  const cutAtMs = systemClock.elapsedMs();
  const left = fileSystem.crash(seed);
  const known = blocks.snapshot();
  cut.abort();
  await lanes;
  const writes = known.acknowledgedCount;
  await using opened = await openJournal(setupOf(left));
  const lost = known.takeLost(await contentAfter(opened, blocks.sizeBytes));
  const oldestLostMs = lost.reduce((most, { acknowledgedAtMs }) => Math.max(most, cutAtMs - acknowledgedAtMs), 0);
  return { oldestLostMs, lost: lost.length, writes };
}

/** Cut before the first sync, not even the beginning of the stretch is there: what is left is the empty base. */
async function contentAfter(journal: Journal, sizeBytes: number): Promise<Buffer> {
  try {
    return await newestContent(journal, sizeBytes);
  } catch (error) {
    if (hasCode(error, 'MOMENT_NOT_FOUND')) return Buffer.alloc(sizeBytes);
    throw error;
  }
}

/** One guest's thread: writes, waits for the end of each, and pauses. */
async function write(
  { mirror }: NbdMachine,
  blocks: NumberedBlocks,
  { lane, random, cut }: { readonly lane: number; readonly random: Seeded; readonly cut: AbortController },
): Promise<void> {
  const choice = new Seeded(random.next());
  const data = Buffer.alloc(BLOCK_BYTES);
  while (!cut.signal.aborted) {
    const block = lane + LANES * choice.below(BLOCKS / LANES);
    const number = blocks.next(block, data);
    await mirror?.write(block * BLOCK_BYTES, data);
    blocks.acknowledge(block, number, systemClock.elapsedMs());
    await delay(choice.below(PAUSE_MS));
  }
}

function setupOf(fileSystem: CrashingFileSystem): Parameters<typeof openJournal>[0] {
  const startSealing = (): InlineSealing => new InlineSealing();
  return { directory: '/journal', fileSystem, key: JOURNAL_OPTIONS.key, startSealing };
}
