// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import type { Clock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import type { FileSystem } from '../../appliance/core/file-system.ts';
import { newPointId, parseMachineId } from '../../appliance/core/ids.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import { deriveKeys } from '../../appliance/repository/keys.ts';
import { LIVED_TIME_KEY, LivedTime, RECORD_INTERVAL_MS } from '../../appliance/repository/lived-time.ts';
import type { GuardedPoint } from '../../appliance/repository/point-guard.ts';
import { PointGuards } from '../../appliance/repository/point-guards.ts';
import { CrashingFileSystem } from '../support/crashing-file-system.ts';
import { FaultPlan, FaultyFileSystem } from '../support/faulty-file-system.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('holds and locks');
const KEY = deriveKeys(Buffer.alloc(32, 7), '0'.repeat(32), true).manifest;
const DAY_MS = 24 * 3_600_000;
const START_MS = Date.parse('2026-11-21T12:00:00Z');

/** A host whose clock can be set and that can be off, and the appliance on it, opened anew at will. */
class Host {
  readonly root: string;
  guards: PointGuards;
  wallMs = START_MS;
  uptimeMs = 5_000_000;
  boots = 1;
  readonly #store: DirectoryStore;

  private constructor(root: string, store: DirectoryStore) {
    this.root = root;
    this.#store = store;
    this.guards = this.open();
  }

  static async create(t: TestContext): Promise<Host> {
    const root = await t.tempDir();
    return new Host(root, await DirectoryStore.open(root));
  }

  /** Time passes, and all clocks show it. */
  live(ms: number): void {
    this.wallMs += ms;
    this.uptimeMs += ms;
  }

  /** The host is off for a while. */
  restart(offMs: number): void {
    this.wallMs += offMs;
    this.uptimeMs = 20_000;
    this.boots += 1;
    this.open();
  }

  /** Another process of the appliance. */
  open(): PointGuards {
    const clock: Clock = { nowMs: () => this.wallMs, elapsedMs: () => this.uptimeMs };
    const uptime = (): { bootId: string; uptimeMs: number } => ({
      bootId: `boot ${this.boots}`,
      uptimeMs: this.uptimeMs,
    });
    this.guards = new PointGuards(this.#store, KEY, { clock, uptime });
    return this.guards;
  }

  path(kind: 'hold' | 'lock', { machineId, pointId }: GuardedPoint): string {
    return join(this.root, `${kind}s`, machineId, `${pointId}.json`);
  }
}

function newPoint(): GuardedPoint {
  return { machineId: parseMachineId('40414243-4445-4647-8849-4a4b4c4d4e4f'), pointId: newPointId() };
}

test('a held point is not deleted until it is released, also by another process', async (t) => {
  const host = await Host.create(t);
  const [point, other] = [newPoint(), newPoint()];
  await host.guards.hold(point, { reason: 'audit', untilMs: null });
  await rejectsWith(host.guards.refuseDeletion(point), 'POINT_HELD');
  await host.guards.refuseDeletion(other);
  await rejectsWith(host.open().refuseDeletion(point), 'POINT_HELD');
  assert.equal((await host.guards.inForce(point)).hold?.reason, 'audit');
  assert.equal(await host.guards.release(point), true);
  assert.equal(await host.guards.release(point), false);
  await host.guards.refuseDeletion(point);
  await host.open().refuseDeletion(point);
});

test('a hold with a date ends with it', async (t) => {
  const host = await Host.create(t);
  const point = newPoint();
  await host.guards.hold(point, { reason: '', untilMs: START_MS + DAY_MS });
  host.live(DAY_MS - 1);
  await rejectsWith(host.guards.refuseDeletion(point), 'POINT_HELD');
  host.live(1);
  await host.guards.refuseDeletion(point);
});

test('a lock cannot be released or shortened, and can be extended', async (t) => {
  const host = await Host.create(t);
  const point = newPoint();
  await host.guards.lock(point, START_MS + 2 * DAY_MS);
  await rejectsWith(host.guards.lock(point, START_MS + DAY_MS), 'POINT_LOCKED');
  await host.guards.lock(point, START_MS + 2 * DAY_MS);
  await host.guards.release(point);
  await rejectsWith(host.guards.refuseDeletion(point), 'POINT_LOCKED');
  await host.guards.lock(point, START_MS + 3 * DAY_MS);
  host.live(2 * DAY_MS);
  await rejectsWith(host.open().refuseDeletion(point), 'POINT_LOCKED');
  host.live(DAY_MS);
  await host.guards.refuseDeletion(point);
});

test('a date must lie ahead, and a lock not beyond all measure', async (t) => {
  const { guards } = await Host.create(t);
  await rejectsWith(guards.hold(newPoint(), { reason: '', untilMs: START_MS }), 'BAD_ARGUMENT');
  await rejectsWith(guards.lock(newPoint(), START_MS - 1), 'BAD_ARGUMENT');
  await rejectsWith(guards.lock(newPoint(), START_MS + 40 * 366 * DAY_MS), 'BAD_ARGUMENT');
});

test('a clock that is set forward ends no lock: not at once, not after restarts of the appliance or its host', async (t) => {
  const host = await Host.create(t);
  const point = newPoint();
  await host.guards.lock(point, START_MS + 30 * DAY_MS);
  host.wallMs += 400 * DAY_MS;
  await rejectsWith(host.guards.refuseDeletion(point), 'POINT_LOCKED');
  await host.guards.recordTime();
  await rejectsWith(host.open().refuseDeletion(point), 'POINT_LOCKED');
  for (let n = 0; n < 5; n++) {
    host.restart(60 * DAY_MS);
    await host.guards.recordTime();
    await rejectsWith(host.guards.refuseDeletion(point), 'POINT_LOCKED');
  }
  // Extending it under the wrong clock does not bring its end nearer either.
  await host.guards.lock(point, host.wallMs + 1_000);
  host.live(DAY_MS);
  await rejectsWith(host.guards.refuseDeletion(point), 'POINT_LOCKED');
  host.wallMs = START_MS + 2 * DAY_MS;
  await rejectsWith(host.guards.refuseDeletion(point), 'POINT_LOCKED');
});

test('a lock ends at its date when the appliance was up, whatever processes of it ran', async (t) => {
  const host = await Host.create(t);
  const point = newPoint();
  await host.guards.lock(point, START_MS + 30 * DAY_MS);
  host.live(10 * DAY_MS);
  await host.open().recordTime();
  host.live(20 * DAY_MS);
  await host.open().refuseDeletion(point);
});

test('while the host is off, a lock waits', async (t) => {
  const host = await Host.create(t);
  const point = newPoint();
  await host.guards.lock(point, START_MS + 10 * DAY_MS);
  host.live(8 * DAY_MS);
  await host.guards.recordTime();
  host.restart(5 * DAY_MS);
  await host.guards.recordTime();
  await rejectsWith(host.guards.refuseDeletion(point), 'POINT_LOCKED');
  host.live(2 * DAY_MS);
  await host.guards.refuseDeletion(point);
});

test('a lock outlives the loss of the record of the time, and does not end early', async (t) => {
  const host = await Host.create(t);
  const [early, late] = [newPoint(), newPoint()];
  await host.guards.lock(early, START_MS + 10 * DAY_MS);
  host.live(9 * DAY_MS);
  await host.guards.lock(late, START_MS + 11 * DAY_MS);
  await rm(join(host.root, LIVED_TIME_KEY));
  host.restart(0);
  host.wallMs += 300 * DAY_MS;
  await host.guards.recordTime();
  // Nine days were lived: the lock that was placed then says so.
  host.live(DAY_MS);
  await host.guards.refuseDeletion(early);
  await rejectsWith(host.guards.refuseDeletion(late), 'POINT_LOCKED');
  host.live(DAY_MS);
  await host.guards.refuseDeletion(late);
});

test('what cannot be read is in force: a damaged lock, a damaged hold, a damaged record of the time', async (t) => {
  const host = await Host.create(t);
  const point = newPoint();
  for (const kind of ['hold', 'lock'] as const) {
    if (kind === 'hold') await host.guards.hold(point, { reason: 'x', untilMs: null });
    else await host.guards.lock(point, START_MS + DAY_MS);
    const path = host.path(kind, point);
    const bytes = await readFile(path);
    await writeFile(path, bytes.toString().replace('2026', '2006'));
    await rejectsWith(host.guards.refuseDeletion(point), 'REPOSITORY_CORRUPT');
    await rejectsWith(host.open().inForce(point), 'REPOSITORY_CORRUPT');
    await writeFile(path, bytes);
    if (kind === 'hold') await host.open().release(point);
  }
  host.open();
  host.live(DAY_MS);
  const record = join(host.root, LIVED_TIME_KEY);
  await writeFile(record, (await readFile(record, 'utf8')).replace(/"livedMs": \d+/, '"livedMs": 9000000000000'));
  await rejectsWith(host.open().refuseDeletion(point), 'REPOSITORY_CORRUPT');
});

test('a lock under the name of another point is refused, and a hold does not pass for a lock', async (t) => {
  const host = await Host.create(t);
  const [one, two] = [newPoint(), newPoint()];
  await host.guards.lock(one, START_MS + DAY_MS);
  await host.guards.lock(two, START_MS + 9 * DAY_MS);
  await host.guards.hold(two, { reason: 'x', untilMs: START_MS + 1 });
  await writeFile(host.path('lock', two), await readFile(host.path('lock', one)));
  await rejectsWith(host.open().inForce(two), 'REPOSITORY_CORRUPT');
  await writeFile(host.path('lock', two), await readFile(host.path('hold', two)));
  await rejectsWith(host.open().inForce(two), 'REPOSITORY_CORRUPT');
});

test('a listing that comes back empty hides no lock from a deletion', async (t) => {
  const host = await Host.create(t);
  const point = newPoint();
  await host.guards.lock(point, START_MS + DAY_MS);
  const folder = join(host.root, 'locks');
  await rename(folder, `${folder}-elsewhere`);
  const late = host.open();
  assert.deepEqual(await late.inForce(point), {});
  await rename(`${folder}-elsewhere`, folder);
  await rejectsWith(late.refuseDeletion(point), 'POINT_LOCKED');
});

test('lived time goes forward only, and never faster than time', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  const step = fc.record({
    passMs: fc.integer({ min: 0, max: 3 * RECORD_INTERVAL_MS }),
    kind: fc.constantFrom('read', 'record', 'reopen', 'restart'),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      await store.delete(LIVED_TIME_KEY);
      let [uptimeMs, boots, lastMs, passedMs] = [1_000, 0, 0, 0];
      const open = (): LivedTime => new LivedTime(store, KEY, () => ({ bootId: String(boots), uptimeMs }));
      let lived = open();
      for (const { passMs, kind } of steps) {
        uptimeMs += passMs;
        passedMs += passMs;
        if (kind === 'restart') [uptimeMs, boots] = [5, boots + 1];
        if (kind === 'restart' || kind === 'reopen') lived = open();
        if (kind === 'record') await lived.record(lastMs);
        const nowMs = await lived.now(0);
        assert.ok(nowMs <= passedMs + 1, `${nowMs} of ${passedMs}`);
        if (kind === 'read' || kind === 'record') {
          assert.ok(nowMs >= (kind === 'record' ? lastMs : 0));
          lastMs = Math.max(lastMs, nowMs);
        }
      }
    }),
    { numRuns: 40 },
  );
});

test('whichever step of extending a lock fails or loses its power, the lock before is left or the one after', async () => {
  const point = newPoint();
  const time = {
    clock: { nowMs: () => START_MS, elapsedMs: () => 0 },
    uptime: () => ({ bootId: 'boot', uptimeMs: 5_000 }),
  };
  const open = async (fileSystem: FileSystem): Promise<PointGuards> =>
    new PointGuards(await DirectoryStore.open('/repository', fileSystem), KEY, time);
  const [before, after] = [1, 2].map((days) => START_MS + days * DAY_MS) as [number, number];
  for (const kind of ['error', 'crash'] as const) {
    for (let at = 1, wasHit = true; wasHit; at++) {
      const disk = new CrashingFileSystem();
      await (await open(disk)).lock(point, before);
      const plan = new FaultPlan(kind === 'error' ? { kind, at, code: 'ENOSPC' } : { kind, at, partial: true });
      let isPromised = true;
      try {
        await (await open(new FaultyFileSystem(disk, plan))).lock(point, after);
      } catch (error) {
        assert.ok(error instanceof ApplianceError);
        isPromised = false;
      }
      ({ wasHit } = plan);
      for (let seed = 0; seed < 8; seed++) {
        const { lock } = await (await open(disk.crash(seed))).inForce(point);
        const until = Date.parse(lock?.until ?? '');
        assert.ok(until === after || (until === before && !isPromised), `${kind} at ${plan.hit}: ${lock?.until}`);
      }
    }
  }
});
