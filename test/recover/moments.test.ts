// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { PointExports } from '../../appliance/recover/point-exports.ts';
import { PointUse } from '../../appliance/recover/point-use.ts';
import { RecoverService } from '../../appliance/recover/recover-service.ts';
import { SessionDisks } from '../../appliance/recover/session-disks.ts';
import { SessionRegistry } from '../../appliance/recover/session-registry.ts';
import { type Session, SessionStore } from '../../appliance/recover/session-store.ts';
import { StateDisks } from '../../appliance/recover/state-disks.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { noise, readAll, Watched } from './fixture.ts';
import { addFold, type MomentRig, makeMomentRig, pick, random, stateAt } from './moment-rig.ts';

const test = suite('moments of a journal', { timeoutMs: 60_000 });
const DISKS = ['vda', 'vdb'] as const;
const ROUNDS = 60;

/** A stretch of random changes with a fold in its middle, which is still open; all of its moments. */
async function journaled(t: TestContext, seed: number): Promise<MomentRig & { moments: Moment[] }> {
  const rig = await makeMomentRig(t, seed);
  const { journal, history, clock } = rig;
  await history.run(journal, clock, 20);
  await journal.beginStretch('writes');
  const moments = await history.run(journal, clock, 120);
  return { ...rig, moments };
}

async function assertDisk(uri: string, expected: Buffer, what: string): Promise<void> {
  await using client = await connectNbd(uri, { reconnect: false });
  assert.ok((await readAll(client)).equals(expected), what);
}

test('an export of any moment is bit for bit what the disks were then', async (t) => {
  const rig = await journaled(t, 1);
  const { parts, history, journal, clock, moments } = rig;
  const exports = t.use(new PointExports(parts, new PointUse(parts.repository)));
  const folded = pick(moments.slice(40, 80), random(5));
  const fold = await addFold(rig, rig.base, folded);
  const later = await history.run(journal, clock, 60);
  const next = random(2);
  for (let round = 0; round < 25; round++) {
    const moment = pick([...moments, ...later], next);
    const point = moment.sequence >= folded.sequence && next() < 0.8 ? fold : rig.base;
    for (const disk of DISKS) {
      const report = await exports.export({ ...stateAt(rig, point, moment), disk });
      assert.deepEqual(report.moment?.sequence, moment.sequence);
      await assertDisk(report.uri, history.at(disk, moment.sequence), `${disk} at ${moment.sequence}`);
      await exports.unexport(report.id);
    }
  }
});

test('any moment reads as it was, with folds and sealed segments beneath it', async (t) => {
  const rig = await makeMomentRig(t, 31);
  const { parts, history, journal, clock } = rig;
  await journal.beginStretch('writes');
  const bases: { readonly point: RecoveryPoint; readonly sequence: number }[] = [
    { point: rig.base, sequence: rig.base.journal?.sequence ?? 0 },
  ];
  const moments: Moment[] = [];
  for (let part = 0; part < 4; part++) {
    moments.push(...(await history.run(journal, clock, 60)));
    const folded = moments.at(-1) ?? assert.fail();
    bases.push({ point: await addFold(rig, bases.at(-1)?.point ?? rig.base, folded), sequence: folded.sequence });
    await journal.maintain();
  }
  moments.push(...(await history.run(journal, clock, 30)));
  const next = random(32);
  for (let round = 0; round < ROUNDS; round++) {
    const moment = pick(moments, next);
    const base = bases.findLast(({ sequence }) => sequence <= moment.sequence);
    await using disks = await StateDisks.open(parts, stateAt(rig, base?.point ?? rig.base, moment));
    for (const disk of disks.state.point.disks) {
      await using device = disks.device(disk);
      assert.ok(
        (await readAll(device)).equals(history.at(disk.name, moment.sequence)),
        `${disk.name} at ${moment.sequence}`,
      );
    }
  }
});

test('a writable export of a moment takes writes, and the moment stays as it was while the journal goes on', async (t) => {
  const rig = await journaled(t, 3);
  const { parts, history, journal, clock, moments, base } = rig;
  const exports = t.use(new PointExports(parts, new PointUse(parts.repository)));
  const moment = pick(moments, random(4));
  const state = { ...stateAt(rig, base, moment), disk: 'vda' };
  const writable = await exports.export({ ...state, writable: true });
  const untouched = await exports.export(state);
  await using client = await connectNbd(writable.uri);
  const expected = history.at('vda', moment.sequence);
  const data = noise(70_000, 99);
  await client.write(1234, data);
  data.copy(expected, 1234);
  await client.zero({ offset: 500_000, length: 10_000 });
  expected.fill(0, 500_000, 510_000);
  const more = await history.run(journal, clock, 50);
  await addFold(rig, base, more.at(-1) ?? moment);
  assert.ok((await readAll(client)).equals(expected));
  await assertDisk(untouched.uri, history.at('vda', moment.sequence), 'the moment');
});

test('a restore of any moment writes its bytes', async (t) => {
  const rig = await journaled(t, 6);
  const { parts, directory, history, moments, base } = rig;
  const service = t.use(await RecoverService.open(parts));
  const next = random(7);
  for (let round = 0; round < 8; round++) {
    const moment = pick(moments, next);
    const disk = pick(DISKS, next);
    const to = join(directory, `restored-${round}.raw`);
    const report = await service.restore(
      { ...stateAt(rig, base, moment), disk, to, connect: 'test:///default' },
      new Watched(),
    );
    assert.equal(report.moment?.sequence, moment.sequence);
    assert.ok((await readFile(to)).equals(history.at(disk, moment.sequence)), `${disk} at ${moment.sequence}`);
  }
});

test('the disks of a machine booted at a moment need neither the journal nor its segments from then on', async (t) => {
  const rig = await journaled(t, 8);
  const { parts, directory, history, journal, moments, base } = rig;
  const moment = pick(moments, random(9));
  const store = new SessionStore(directory);
  const session: Session = {
    id: store.newId(),
    name: 'spare',
    phase: 'starting',
    ...stateAt(rig, base, moment),
    connect: 'test:///default',
    machineId: base.machine.id,
    keepsIdentity: false,
    startedAt: new Date(0).toISOString(),
  };
  await store.put(session);
  const first = t.use(new SessionDisks(parts, store, new SessionRegistry(store, new PointUse(parts.repository))));
  await first.open(session);
  const expected = new Map(DISKS.map((disk) => [disk, history.at(disk, moment.sequence)] as const));
  for (const { disk, uri } of first.uris(session)) {
    await assertDisk(uri, expected.get(disk as 'vda') ?? assert.fail(), `${disk} after the boot`);
  }
  const [vda] = first.uris(session);
  await using client = await connectNbd(vda?.uri ?? '', { reconnect: false });
  const data = noise(5000, 77);
  await client.write(100_000, data);
  await client.flush();
  data.copy(expected.get('vda') ?? assert.fail(), 100_000);
  await client.close();
  await first.close();
  await journal.close();
  await rm(join(directory, 'journal'), { recursive: true });

  const again = t.use(new SessionDisks(parts, store, new SessionRegistry(store, new PointUse(parts.repository))));
  const running: Session = { ...session, phase: 'running' };
  await again.open(running);
  for (const { disk, uri } of again.uris(running)) {
    await assertDisk(uri, expected.get(disk as 'vda') ?? assert.fail(), `${disk} after the restart`);
  }
});

test('a moment of another log, before its base, or beyond the journal is refused, and nothing stays in use', async (t) => {
  const rig = await journaled(t, 10);
  const { parts, moments, base, journal } = rig;
  const use = new PointUse(parts.repository);
  const exports = t.use(new PointExports(parts, use));
  const [first] = moments;
  const last = moments.at(-1);
  assert.ok(first !== undefined && last !== undefined);
  const fold = await addFold(rig, base, last);
  const wrong = [
    stateAt(rig, fold, first),
    stateAt(rig, base, { sequence: journal.lastSequence + 1, timeUs: last.timeUs }),
    { point: base, moment: { ...stateAt(rig, base, first).moment, logId: 'ab'.repeat(16) } },
  ];
  for (const state of wrong as Parameters<PointExports['export']>[0][]) {
    await assert.rejects(exports.export({ ...state, disk: 'vda' }), { code: 'MOMENT_NOT_FOUND' });
  }
  assert.deepEqual(use.heldPoints(), []);
  assert.deepEqual(exports.list(), []);
});
