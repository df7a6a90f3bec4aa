// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { hasCode } from '../../appliance/core/errors.ts';
import type { WriteLog } from '../../appliance/volume/write-log.ts';
import { CrashingFileSystem, randomSource } from '../support/crashing-file-system.ts';
import { everyStep, type Fault, FaultPlan, FaultyFileSystem, isCrash } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';
import { append, DiskModel, KEY, openLog, randomStep, readDisk } from '../support/write-log-model.ts';

const test = suite('write log, crashes');

/** Below the size of a record's data, so that each change is one record and each state of the log one of the model. */
const SIZE = 60_000;
const SEEDS = 12;

interface Outcome {
  readonly model: DiskModel;
  /** The change that was under way may be there or not. */
  readonly isLastCertain: boolean;
  readonly failure: unknown;
}

for (const key of [null, KEY]) {
  const how = key === null ? 'plain' : 'encrypted';
  const setup = { directory: '/log', key, segmentBytes: 20_000 };

  test(`${how}: the process dies at any step and every settled append is there`, async () => {
    const steps = await everyStep(
      (at) => ({ kind: 'crash', at, partial: true }),
      async (plan) => {
        const disk = new CrashingFileSystem();
        const outcome = await work(new FaultyFileSystem(disk, plan), setup);
        // Without an error, the crash hit the closing barrier, which holds nothing that anybody waits for.
        assert.ok(outcome.failure === undefined || isCrash(outcome.failure));
        const log = await openLog({ ...setup, fileSystem: disk.survivingProcess() });
        const found = await outcome.model.matching(log);
        const newest = outcome.model.states.length - 1;
        assert.ok(found === newest || (!outcome.isLastCertain && found === newest - 1), `${found} of ${newest}`);
        await log.close();
      },
    );
    assert.ok(steps > 40, `${steps} steps`);
  });

  test(`${how}: the power fails at any step and everything flushed is there, in order`, async () => {
    await everyStep(
      (at) => ({ kind: 'crash', at, partial: at % 2 === 0 }),
      async (plan) => {
        const disk = new CrashingFileSystem();
        const { model } = await work(new FaultyFileSystem(disk, plan), setup);
        for (let seed = 1; seed <= SEEDS; seed++) {
          const survivor = disk.crash(seed * 1000 + plan.operations);
          const log = await openLog({ ...setup, fileSystem: survivor });
          const found = await model.matching(log);
          assert.ok(found >= 0, `seed ${seed}: a state that never was, or older than the last flush`);
          await goOn(log, survivor, setup);
        }
      },
    );
  });

  test(`${how}: the power fails again at any step of the recovery`, async () => {
    const random = randomSource(3);
    for (let round = 0; round < 6; round++) {
      const disk = new CrashingFileSystem();
      const at = 20 + Math.floor(random() * 60);
      const plan = new FaultPlan({ kind: 'crash', at, partial: true });
      const { model } = await work(new FaultyFileSystem(disk, plan), setup);
      const crashed = disk.crash(round);
      await everyStep(
        (step) => ({ kind: 'crash', at: step, partial: true }),
        async (second) => {
          const copy = crashed.survivingProcess();
          await attempt(async () => {
            const log = await openLog({ ...setup, fileSystem: new FaultyFileSystem(copy, second) });
            await log.append({ disk: 1, offset: 0, data: Buffer.alloc(0x20, 0xfe) });
            await log.flush();
            await log.close();
          });
          const log = await openLog({ ...setup, fileSystem: copy.crash(round + 100) });
          const states = model.states.length;
          const withNew = new DiskModel(2, SIZE);
          withNew.states = model.states.flatMap((state) => [state, withFirstBytes(state)]);
          assert.ok((await withNew.matching(log)) >= 0, `one of ${states} states`);
          await log.close();
        },
      );
    }
  });

  for (const code of ['ENOSPC', 'EIO'] as const) {
    test(`${how}: ${code} at any step loses nothing that was acknowledged`, async () => {
      await everyStep(
        (at): Fault => ({ kind: 'error', at, code }),
        async (plan) => {
          const disk = new CrashingFileSystem();
          const outcome = await work(new FaultyFileSystem(disk, plan), setup);
          if (plan.wasHit && outcome.failure !== undefined) {
            assert.ok(hasCode(outcome.failure, code === 'EIO' ? 'IO_FAILED' : 'NO_SPACE'));
          }
          for (const survivor of [disk.survivingProcess(), disk.crash(plan.operations), disk.crash(7)]) {
            const log = await openLog({ ...setup, fileSystem: survivor });
            assert.ok((await outcome.model.matching(log)) >= 0);
            await log.close();
          }
        },
      );
    });
  }
}

/** Some changes, flushes and new segments, until the end or the first error. */
async function work(
  fileSystem: FaultyFileSystem,
  setup: { directory: string; key: Buffer | null; segmentBytes: number },
): Promise<Outcome> {
  const model = new DiskModel(2, SIZE);
  const random = randomSource(17);
  let isLastCertain = true;
  let log: WriteLog | undefined;
  const failure = await attempt(async () => {
    log = await openLog({ ...setup, fileSystem });
    for (let step = 0; step < 30; step++) {
      const change = randomStep(random, model, 6_000);
      model.apply(change);
      isLastCertain = false;
      await append(log, change);
      isLastCertain = true;
      if (random() < 0.3) {
        await log.flush();
        model.flushed();
      }
    }
    await log.close();
    model.flushed();
  });
  return { model, isLastCertain, failure };
}

/** A recovered log takes changes again and keeps them through the next power failure. */
async function goOn(
  log: WriteLog,
  disk: CrashingFileSystem,
  setup: { directory: string; key: Buffer | null; segmentBytes: number },
): Promise<void> {
  await log.append({ disk: 0, offset: 10, data: Buffer.from('recovered') });
  await log.flush();
  const again = await openLog({ ...setup, fileSystem: disk.crash(5) });
  assert.equal((await readDisk(again, 0, SIZE)).toString('latin1', 10, 19), 'recovered');
  await again.close();
  await log.close();
}

function withFirstBytes(state: readonly Buffer[]): Buffer[] {
  return state.map((disk, index) =>
    index === 1 ? Buffer.concat([Buffer.alloc(0x20, 0xfe), disk.subarray(0x20)]) : disk,
  );
}

async function attempt(work: () => Promise<void>): Promise<unknown> {
  try {
    await work();
    return undefined;
  } catch (error) {
    return error;
  }
}
