// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { Housekeeper } from '../../../appliance/app/housekeeping/housekeeper.ts';
import type { Chore, ChoreRecord } from '../../../appliance/app/housekeeping/plan.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { suite } from '../../support/suite.ts';

const test = suite('housekeeper');
const HOUR_MS = 3_600_000;
const DAY_MS: number = 24 * HOUR_MS;

class House {
  nowMs: number = Date.parse('2026-11-21T12:00:00Z');
  stored: Partial<Record<Chore, ChoreRecord>> = {};
  readonly done: string[] = [];
  readonly notices: string[] = [];
  isSpaceLow = false;
  perform: (chore: Chore, signal: AbortSignal) => Promise<void> = async () => undefined;
  save: (records: House['stored']) => Promise<void> = async (records) => {
    this.stored = { ...records };
  };
  measure: () => Promise<boolean> = async () => this.isSpaceLow;
  housekeeper: Housekeeper = this.open();

  open(): Housekeeper {
    this.housekeeper = new Housekeeper({
      clock: { nowMs: () => this.nowMs, elapsedMs: () => this.nowMs },
      load: async () => this.stored,
      save: (records) => this.save(records),
      perform: async (chore, signal) => {
        this.done.push(chore);
        await this.perform(chore, signal);
      },
      measure: () => this.measure(),
      onNotice: (sentence) => this.notices.push(sentence),
    });
    return this.housekeeper;
  }

  async pass(ms: number, stepMs = 10 * 60_000): Promise<void> {
    for (const endMs = this.nowMs + ms; this.nowMs < endMs; ) {
      this.nowMs += stepMs;
      await this.housekeeper.look();
    }
  }
}

function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const end = (): void => reject(new ApplianceError('ABORTED', 'interrupted'));
    if (signal.aborted) end();
    else signal.addEventListener('abort', end);
  });
}

test('each chore is done each day, one at a time, also over restarts', async () => {
  const house = new House();
  await house.pass(5 * DAY_MS - HOUR_MS);
  house.open();
  await house.pass(5 * DAY_MS);
  for (const chore of ['collection', 'scrub']) {
    assert.equal(house.done.filter((name) => name === chore).length, 10, chore);
  }
  assert.deepEqual(house.notices, []);
});

test('a chore that fails is tried again later and later, said once, and holds up no other', async () => {
  const house = new House();
  house.perform = async (chore) => {
    if (chore === 'collection') throw new ApplianceError('IO_FAILED', 'cannot list packs/');
  };
  await house.pass(8 * HOUR_MS);
  assert.equal(house.done.filter((name) => name === 'collection').length, 4);
  assert.equal(house.done.filter((name) => name === 'scrub').length, 1);
  assert.deepEqual(house.notices, ['the garbage collection failed: cannot list packs/']);
  assert.equal(house.stored.collection?.problem, 'IO_FAILED: cannot list packs/');
  assert.equal(house.stored.collection?.failures, 4);
  house.perform = async () => undefined;
  await house.pass(DAY_MS);
  assert.equal(house.stored.collection?.failures, 0);
  assert.equal(house.stored.collection?.problem, null);
});

test('what somebody asks for interrupts a chore, which is no failure, and runs alone', async () => {
  const house = new House();
  house.perform = (_, signal) => untilAborted(signal);
  house.nowMs += HOUR_MS;
  const looking = house.housekeeper.look();
  while (house.done.length === 0) await new Promise((resolve) => setImmediate(resolve));
  const answer = await house.housekeeper.withoutChores(async () => {
    await house.housekeeper.look();
    return house.done.length;
  });
  await looking;
  assert.equal(answer, 1);
  assert.deepEqual([house.stored, house.notices], [{}, []]);
  house.perform = async () => undefined;
  await house.housekeeper.look();
  assert.deepEqual(house.done, ['collection', 'collection']);
});

test('what somebody did counts', async () => {
  const house = new House();
  await house.housekeeper.noteDone('collection', house.nowMs);
  await house.pass(23 * HOUR_MS);
  assert.deepEqual(house.done, ['scrub']);
});

test('a chore that finds another one at work is due as before', async () => {
  const house = new House();
  house.perform = async () => {
    throw new ApplianceError('LOCKED', 'a check is running already');
  };
  house.nowMs += HOUR_MS;
  await house.housekeeper.look();
  assert.deepEqual([house.stored, house.notices], [{}, []]);
});

test('closing ends a chore that runs and waits for it', async () => {
  const house = new House();
  let isOver = false;
  house.perform = (_, signal) =>
    untilAborted(signal).finally(() => {
      isOver = true;
    });
  house.nowMs += HOUR_MS;
  const looking = house.housekeeper.look();
  while (house.done.length === 0) await new Promise((resolve) => setImmediate(resolve));
  await house.housekeeper[Symbol.asyncDispose]();
  assert.equal(isOver, true);
  await looking;
  assert.deepEqual(house.stored, {});
});

test('room that is short has garbage collected each six hours', async () => {
  const house = new House();
  house.isSpaceLow = true;
  await house.pass(DAY_MS);
  assert.equal(house.done.filter((name) => name === 'collection').length, 4);
});

test('on a full disk what was done counts, though it cannot be recorded', async () => {
  const house = new House();
  house.save = () => Promise.reject(new ApplianceError('NO_SPACE', 'no space left for the catalog'));
  await house.pass(DAY_MS);
  assert.deepEqual(house.done, ['collection', 'scrub']);
  assert.deepEqual(
    [house.stored, house.notices],
    [{}, ['housekeeping cannot be recorded: no space left for the catalog']],
  );
  await house.housekeeper.noteDone('collection', house.nowMs);
});

test('what cannot be measured or recorded is said once and ends nothing', async () => {
  const house = new House();
  house.measure = () => Promise.reject(new ApplianceError('IO_FAILED', 'cannot look at /repository'));
  await house.pass(2 * HOUR_MS);
  assert.deepEqual(house.notices, ['housekeeping: cannot look at /repository']);
  assert.deepEqual(house.done, []);
  house.measure = async () => false;
  await house.pass(HOUR_MS);
  assert.deepEqual(house.done, ['collection', 'scrub']);
});
