// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { systemClock } from '../../../appliance/core/clock.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { ContinuousSession } from '../../../appliance/protect/continuous/session.ts';
import {
  DEFAULT_SESSION_SETTINGS,
  type SessionSettings,
} from '../../../appliance/protect/continuous/session-settings.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';
import { disk, FakeJournal, FakeMachine, FakeStorage } from './fakes.ts';

const QUICK: SessionSettings = {
  ...DEFAULT_SESSION_SETTINGS,
  flushMs: 5,
  latency: { limitMs: 20, hardLimitMs: 100, windowMs: 50, seedingLimitMs: 500 },
  fallbackIntervalMs: 5,
  fallbackMs: 60,
  retryMs: 2,
  maxRetryMs: 10,
  watchMs: 20,
  tickMs: 2,
};

interface Scene {
  readonly machine: FakeMachine;
  readonly journal: FakeJournal;
  readonly storage: FakeStorage;
  readonly session: ContinuousSession;
  /** Every state so far, as `state/mode: reason`. */
  readonly states: () => string[];
  /** Waits until the newest state is as given. */
  readonly until: (state: string, mode?: string) => Promise<void>;
}

function scene(t: TestContext, change: Partial<SessionSettings> = {}, isStarted = true): Scene {
  const machine = new FakeMachine();
  const journal = new FakeJournal();
  const storage = new FakeStorage();
  let notify = (): void => undefined;
  const session = t.use(
    new ContinuousSession({
      clock: systemClock,
      settings: { ...QUICK, ...change },
      watch: machine,
      lines: machine,
      journal,
      storage,
      onChange: () => notify(),
    }),
  );
  const until = async (state: string, mode?: string): Promise<void> => {
    for (;;) {
      const now = session.status().change;
      if (now.state === state && (mode === undefined || now.mode === mode)) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      notify = resolve;
      await promise;
    }
  };
  const states = (): string[] =>
    session.status().history.map(({ state, mode, reason }) => `${state}/${mode}: ${reason}`);
  if (isStarted) session.start();
  return { machine, journal, storage, session, states, until };
}

const test = suite('session of continuous protection');

test('a machine is seeded, then protected, and every write of it comes into the journal in order', async (t) => {
  const { machine, journal, storage, session, until, states } = scene(t);
  await until('protected');
  await machine.guestWrites('vda', 'first');
  await machine.guestWrites('vdb', 'second');
  assert.deepEqual(journal.lines, ['begin writes', '0:first', '1:second']);
  assert.equal(storage.basesMade, 1);
  assert.equal(session.status().rpoMs, 0);
  await session.close();
  assert.deepEqual(journal.events, ['begin writes', 'end: the service stops']);
  assert.equal(machine.openLines, 0);
  assert.deepEqual(machine.running, []);
  assert.deepEqual(states(), ['seeding/writes: protection begins', 'protected/writes: every write is kept']);
});

test('nothing is offered before every disk is copied', async (t) => {
  const { machine, journal, session, until } = scene(t, {}, false);
  machine.isInstant = false;
  session.start();
  await whenTrue(() => machine.mirrors.length === 2);
  await machine.guestWrites('vda', 'while seeding');
  machine.mirrors[0]?.move('ready');
  await machine.guestWrites('vdb', 'while seeding');
  assert.deepEqual(journal.lines, []);
  machine.mirrors[1]?.move('ready');
  await until('protected');
  assert.deepEqual(journal.lines, ['begin writes']);
});

test('a reboot of the guest is none of our business', async (t) => {
  const { machine, journal, until, states } = scene(t);
  await until('protected');
  machine.changed('rebooted');
  await settled();
  await machine.guestWrites('vda', 'after');
  assert.deepEqual(journal.lines, ['begin writes', '0:after']);
  assert.equal(states().length, 2);
});

test('a shutdown ends the stretch with its reason, and a start is resynced', async (t) => {
  const { machine, journal, storage, until, states } = scene(t);
  await until('protected');
  machine.shutDown();
  await until('paused');
  assert.deepEqual(journal.events, ['begin writes', 'end: the machine is shut off']);
  machine.start();
  await until('protected');
  assert.deepEqual(states().slice(2), [
    'behind/writes: the machine is shut off',
    'paused/writes: the machine is shut off',
    'resyncing/writes: the machine runs',
    'protected/writes: every write is kept',
  ]);
  assert.equal(storage.basesMade, 1, 'the base is the same');
});

test('a machine that is off when protection begins is waited for', async (t) => {
  const made = scene(t, {}, false);
  made.machine.power = 'off';
  made.session.start();
  await made.until('paused');
  assert.equal(made.session.status().rpoMs, null);
  made.machine.start();
  await made.until('protected');
});

for (const [what, change, reason] of [
  ['added', (m: FakeMachine): unknown => (m.disks = [...m.disks, disk('vdc')]), 'the disk vdc was added'],
  ['removed', (m: FakeMachine): unknown => (m.disks = [disk('vda')]), 'the disk vdb was removed'],
  [
    'resized',
    (m: FakeMachine): unknown => (m.disks = [disk('vda', { sizeBytes: 4096 }), disk('vdb')]),
    'the disk vda was resized',
  ],
  [
    'replaced',
    (m: FakeMachine): unknown => (m.disks = [disk('vda', { identity: {} }), disk('vdb')]),
    'the disk vda was replaced',
  ],
] as const) {
  test(`a disk that is ${what} ends the stretch and needs a new base`, async (t) => {
    const { machine, journal, storage, until } = scene(t);
    await until('protected');
    change(machine);
    machine.changed('device');
    await until('resyncing');
    await until('protected');
    assert.deepEqual(journal.events, ['begin writes', `end: ${reason}`, 'begin writes']);
    assert.equal(storage.basesMade, 2);
    assert.deepEqual(storage.base, machine.disks);
    assert.equal(machine.running.length, machine.disks.length);
  });
}

test('a snapshot or backup of another tool gets the machine, and protection returns', async (t) => {
  const { machine, journal, session, until } = scene(t);
  await until('protected');
  await session.pause('let go for a snapshot');
  assert.deepEqual(machine.running, []);
  assert.equal(machine.openLines, 0);
  await until('paused');
  session.resume();
  await until('protected');
  assert.deepEqual(journal.events, ['begin writes', 'end: let go for a snapshot', 'begin writes']);
});

test('while another tool holds the machine it is asked again until it is free', async (t) => {
  const made = scene(t, {}, false);
  made.machine.refusal = 'a job runs on vda';
  made.session.start();
  await whenTrue(() => made.machine.openLines === 0 && made.states().length > 1);
  assert.ok(
    made.states().some((state) => state.endsWith('a job runs on vda')),
    made.states().join(),
  );
  made.machine.refusal = undefined;
  await made.until('protected');
});

test('a machine that migrates away is paused, and taken up when it is back', async (t) => {
  const { machine, until, states } = scene(t);
  await until('protected');
  machine.shutDown('the machine was migrated to another host');
  await until('paused');
  assert.ok(states().at(-1)?.endsWith('the machine was migrated to another host'));
  machine.start();
  await until('protected');
});

test('libvirtd may go and come back: mirrors go on, and nothing is lost or begun anew', async (t) => {
  const { machine, journal, until, states } = scene(t);
  await until('protected');
  machine.isReachable = false;
  machine.changed('closed');
  await settled();
  await machine.guestWrites('vda', 'meanwhile');
  machine.isReachable = true;
  machine.changed('opened');
  await settled();
  assert.deepEqual(journal.lines, ['begin writes', '0:meanwhile']);
  assert.equal(states().length, 2);
});

test('a mirror that ends by itself ends the stretch for all disks at once', async (t) => {
  const { machine, journal, until } = scene(t);
  await until('protected');
  machine.mirrors[0]?.move('ended', 'aborted by virsh');
  await machine.guestWrites('vdb', 'depends on what was lost');
  await until('resyncing');
  await until('protected');
  assert.deepEqual(journal.lines, ['begin writes', 'end: the mirror of vda ended: aborted by virsh', 'begin writes']);
  assert.ok(machine.mirrors[1]?.wasEndedByUs);
});

test('a connection that is cut ends the stretch for all disks at once', async (t) => {
  const { machine, journal, until } = scene(t);
  await until('protected');
  machine.onLost('vdb');
  await machine.guestWrites('vda', 'depends on what was lost');
  await until('resyncing');
  await until('protected');
  assert.deepEqual(journal.lines, ['begin writes', 'end: the connection of vdb was cut', 'begin writes']);
});

test('a full log ends the stretch, is tried again, and the guest sees nothing of it', async (t) => {
  const { machine, journal, until, states } = scene(t);
  await until('protected');
  journal.failure = new ApplianceError('NO_SPACE', 'the log is full');
  await machine.guestWrites('vda', 'refused');
  await until('behind');
  await whenTrue(() => states().filter((state) => state.startsWith('behind')).length > 2);
  journal.failure = undefined;
  await machine.guestWrites('vda', 'refused too');
  await until('protected');
  assert.ok(states().includes('behind/writes: vda: the log is full'), states().join('\n'));
  assert.deepEqual(journal.lines, ['begin writes', 'begin writes']);
});

test('a log that is too slow for the guest is left for intervals, which return to every write', async (t) => {
  const { machine, journal, storage, until, states } = scene(t);
  await until('protected');
  journal.delayMs = 400;
  void machine.guestWrites('vda', 'slow');
  await until('protected', 'interval');
  assert.equal(machine.cuts, 1);
  assert.ok(storage.cycles > 0);
  journal.delayMs = 0;
  await until('protected', 'writes');
  assert.ok(
    states().some((state) => /behind\/interval: a write waited \d+ ms for the log/.test(state)),
    states().join('\n'),
  );
  const events = journal.events.filter((event) => event !== 'moment');
  assert.match(events[1] ?? '', /^end: a write waited/);
  assert.deepEqual(
    [events[2], events[3], events[4]],
    ['begin interval', 'end: every write can be tried again', 'begin writes'],
  );
});

test('intervals: each one is a moment, a failed one is a gap, and what is unchanged costs no record of data', async (t) => {
  const { machine, journal, storage, session, until } = scene(t, { intervalMs: 5 });
  await until('protected', 'interval');
  await whenTrue(() => storage.cycles >= 3);
  storage.failure = new ApplianceError('DOMAIN_BUSY', 'somebody else makes a backup');
  await until('behind');
  storage.failure = undefined;
  await until('protected');
  assert.ok((session.status().rpoMs ?? -1) >= 0);
  await session.close();
  assert.equal(machine.mirrors.length, 0);
  const ends = journal.events.filter((event) => event.startsWith('end'));
  assert.deepEqual(ends, ['end: an interval failed', 'end: the service stops']);
  assert.equal(journal.lines.filter((line) => line !== 'moment' && !/^(begin|end)/.test(line)).length, 0);
});

test('an appliance that was away begins with a resync of its base', async (t) => {
  const made = scene(t, {}, false);
  made.storage.base = made.machine.disks;
  made.session.start();
  await made.until('protected');
  assert.equal(made.storage.basesMade, 0);
});

test('the journal is folded in time and by size, and a failed fold ends nothing', async (t) => {
  const { machine, journal, storage, session, until } = scene(t, { foldMs: 3_600_000, foldRecords: 3 });
  await until('protected');
  await machine.guestWrites('vda', 'one');
  await machine.guestWrites('vda', 'two');
  await whenTrue(() => storage.folds.length === 1);
  assert.deepEqual(storage.folds, [{ sequence: 3, reason: 'folded from the journal' }]);
  storage.failure = new Error('no room in the repository');
  for (const text of ['three', 'four', 'five']) await machine.guestWrites('vda', text);
  await whenTrue(() => session.status().foldProblem !== null);
  assert.equal(session.status().change.state, 'protected');
  storage.failure = undefined;
  await whenTrue(() => storage.folds.length === 2);
  assert.equal(session.status().foldProblem, null);
  assert.equal(journal.lines.length, 6);
});

test('what was acknowledged is flushed soon after', async (t) => {
  const { machine, journal, until } = scene(t);
  await until('protected');
  await machine.guestWrites('vda', 'one');
  await whenTrue(() => journal.durableSequence === journal.lastSequence);
});

test('a point of now is made when asked, and refused while there is no consistent state', async (t) => {
  const { machine, storage, session, until } = scene(t);
  await until('protected');
  await machine.guestWrites('vda', 'one');
  assert.ok((await session.foldNow('asked for')) !== undefined);
  assert.deepEqual(storage.folds, [{ sequence: 2, reason: 'asked for' }]);
  machine.isInstant = false;
  machine.mirrors[0]?.move('ended', 'gone');
  await until('resyncing');
  await rejectsWith(session.foldNow('asked for'), 'DOMAIN_BUSY');
  machine.shutDown();
  await until('paused');
  assert.ok((await session.foldNow('of a machine that is off')) !== undefined);
  assert.equal(storage.folds[1]?.sequence, 3, 'the end of the stretch');
});

async function whenTrue(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** Long enough for the session to look at the machine again. */
async function settled(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 3 * QUICK.watchMs));
}

test('a bookmark names the newest state, and is refused while there is no consistent one', async (t) => {
  const { machine, journal, session, until } = scene(t);
  await until('protected');
  await machine.guestWrites('vda', 'first');
  const moment = await session.bookmark('upgrade', 'file-system-consistent');
  assert.deepEqual(journal.lines, ['begin writes', '0:first', 'bookmark upgrade: file-system-consistent']);
  assert.equal(moment.sequence, 3);
  await session.pause('paused by the operator');
  await until('paused');
  await assert.rejects(session.bookmark('late', 'crash-consistent'), { code: 'DOMAIN_BUSY' });
});

test('in intervals a bookmark does not wait for the next one, and marks one that began after it', async (t) => {
  const { journal, storage, session, until } = scene(t, { intervalMs: 3_600_000 });
  await until('protected', 'interval');
  const { cycles } = storage;
  await session.bookmark('upgrade', 'file-system-consistent');
  assert.equal(storage.cycles, cycles + 1);
  assert.deepEqual(journal.events.slice(-2), ['moment', 'bookmark upgrade: file-system-consistent']);
  storage.failure = new Error('the machine does not answer');
  await assert.rejects(session.bookmark('late', 'crash-consistent'), { code: 'DOMAIN_BUSY' });
  storage.failure = undefined;
});

test('from the turn in which a mirror is lost nothing says that the machine is protected, and no bookmark is taken', async (t) => {
  const { machine, journal, session, until } = scene(t);
  await until('protected');
  await machine.guestWrites('vda', 'before');
  // libvirt takes its time to tell why.
  const explained = Promise.withResolvers<void>();
  machine.delay = explained.promise;
  machine.onLost('vdb');
  const { change, rpoMs } = session.status();
  assert.deepEqual([change.state, change.reason], ['behind', 'the connection of vdb was cut']);
  assert.ok(rpoMs !== null);
  const asked = assert.rejects(session.bookmark('after the loss', 'file-system-consistent'), { code: 'DOMAIN_BUSY' });
  await rejectsWith(session.foldNow('asked for'), 'DOMAIN_BUSY');
  explained.resolve();
  await asked;
  await until('resyncing');
  assert.deepEqual(journal.events.slice(0, 2), ['begin writes', 'end: the connection of vdb was cut']);
});

test('a bookmark is taken only after the machine was asked, so that what ended a mirror before is known', async (t) => {
  const { machine, journal, session, until } = scene(t);
  await until('protected');
  const looked = Promise.withResolvers<void>();
  machine.delay = looked.promise;
  const asked = assert.rejects(session.bookmark('frozen', 'file-system-consistent'), { code: 'DOMAIN_BUSY' });
  machine.mirrors[0]?.move('ended', 'aborted by virsh');
  looked.resolve();
  await asked;
  await until('resyncing');
  assert.ok(!journal.events.some((event) => event.startsWith('bookmark')), journal.events.join());
});

test('a point that waits for another is of the state at its turn, and refused when there is none any more', async (t) => {
  const { machine, storage, session, until } = scene(t);
  await until('protected');
  const slow = Promise.withResolvers<void>();
  storage.delay = slow.promise;
  const first = session.foldNow('first');
  await settled();
  const second = rejectsWith(session.foldNow('second'), 'DOMAIN_BUSY');
  machine.isInstant = false;
  machine.onLost('vda');
  await machine.guestWrites('vda', 'not of the stretch');
  slow.resolve();
  await first;
  await second;
  assert.deepEqual(
    storage.folds.map(({ reason }) => reason),
    ['first'],
  );
});

test('after an interruption what changed is read first and can be recovered, then the disks are copied', async (t) => {
  const { machine, journal, storage, session, until } = scene(t);
  await until('protected');
  assert.equal(session.status().resync, null, 'the first copy takes nothing up again');
  storage.catchUpFailure = undefined;
  machine.isInstant = false;
  await session.pause('paused by the operator');
  const seen = journal.events.length;
  session.resume();
  await whenTrue(() => machine.running.length === 2);
  assert.deepEqual(journal.events.slice(seen), [
    'begin interval',
    'moment',
    'end: caught up: 0.0 MiB read as changed; then the disks were copied whole',
  ]);
  const { change, rpoMs, resync } = session.status();
  assert.deepEqual(
    [change.state, resync?.kind, resync?.changedBytes, resync?.compared],
    ['resyncing', 'bitmap', 4096, null],
  );
  assert.match(change.reason, /^caught up \(0\.0 MiB were read as changed\)/);
  assert.ok(rpoMs !== null && rpoMs < 5_000);
  for (const mirror of machine.running) mirror.move('ready');
  await until('protected');
  assert.deepEqual(session.status().resync?.compared, { bytes: 0, differingBytes: 0 });
});

test('without an account that can be trusted the disks are compared, and the reason is told', async (t) => {
  const { journal, session, until } = scene(t);
  await until('protected');
  await session.pause('paused by the operator');
  const seen = journal.events.length;
  session.resume();
  await until('protected');
  assert.deepEqual(journal.events.slice(seen), ['begin writes']);
  const { resync } = session.status();
  assert.deepEqual([resync?.kind, resync?.reason], ['comparison', 'the checkpoint is gone']);
});

test('a position is adopted only after a later one was made in the same stretch', async (t) => {
  const { machine, storage, session, until } = scene(t, { renewMs: 1 });
  await until('protected');
  await whenTrue(() => storage.adopted.length === 2);
  assert.deepEqual(storage.adopted.slice(0, 2), ['p1 before p2', 'p2 before p3']);
  await session.pause('paused by the operator');
  const [adopted, made] = [storage.adopted.length, storage.positions];
  machine.changed('started');
  session.resume();
  await until('protected');
  await whenTrue(() => storage.adopted.length > adopted);
  assert.equal(storage.adopted[adopted], `p${made + 1} before p${made + 2}`, 'nothing of the stretch before counts');
});

test('while libvirt holds on to the appliance’s own job, the state says so', async (t) => {
  const { machine, storage, session, until } = scene(t);
  await until('protected');
  machine.isInstant = false;
  await session.pause('paused by the operator');
  session.resume();
  await until('resyncing');
  storage.wait('libvirt has not yet let go');
  assert.deepEqual(
    [session.status().change.state, session.status().change.reason],
    ['resyncing', 'libvirt has not yet let go'],
  );
});
