// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { type Clock, systemClock } from '../../appliance/core/clock.ts';
import type { RecoverParts } from '../../appliance/recover/context.ts';
import { PointUse } from '../../appliance/recover/point-use.ts';
import { Rewinds } from '../../appliance/recover/rewind.ts';
import { SessionDisks } from '../../appliance/recover/session-disks.ts';
import type { SessionHistory } from '../../appliance/recover/session-history.ts';
import { SessionRegistry } from '../../appliance/recover/session-registry.ts';
import { historyIdOf, type Session, SessionStore } from '../../appliance/recover/session-store.ts';
import { StateDisks } from '../../appliance/recover/state-disks.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import type { RecoverableState } from '../../appliance/volume/recoverable-state.ts';
import type { TestContext } from '../support/test-scope.ts';
import { makeRig, noise, readAll } from './fixture.ts';

export const SIZES: Readonly<Record<string, number>> = { vda: 1_000_000, vdb: 300_000 };

/** A domain that is nothing but on or off. */
export class FakeMachine {
  isOn = true;
  readonly steps: string[] = [];

  async checkDefined(): Promise<void> {}

  async powerOff(): Promise<void> {
    this.steps.push('off');
    this.isOn = false;
  }

  async powerOn(): Promise<void> {
    this.steps.push('on');
    this.isOn = true;
  }
}

/** One life of what looks after a booted machine, without a hypervisor. */
export interface Life {
  readonly store: SessionStore;
  readonly registry: SessionRegistry;
  readonly disks: SessionDisks;
  readonly rewinds: Rewinds;
  readonly history: SessionHistory;
  /** As it is stored. */
  readonly session: Session;
}

export interface StageRig {
  readonly parts: RecoverParts;
  readonly point: RecoveryPoint;
  readonly machine: FakeMachine;
  readonly session: Session;
  /** Begins a life over what the directory holds; it is closed at the end of the test. */
  readonly live: () => Promise<Life>;
}

/** A session that is served, of a machine with two disks, before its first write. */
export async function makeStageRig(t: TestContext, clock: Clock = systemClock): Promise<StageRig> {
  const { directory, fixture, ...rig } = await makeRig(t);
  const parts = { ...rig.parts, clock };
  const disks: Record<string, ReturnType<typeof memoryDevice>> = {};
  for (const [name, sizeBytes] of Object.entries(SIZES)) {
    const device = memoryDevice({ sizeBytes });
    await device.write(0, noise(sizeBytes, sizeBytes));
    disks[name] = device;
  }
  const point = await fixture.addPoint({ disks, attachments: { 'domain.xml': Buffer.from('<domain/>') } });
  const machine = new FakeMachine();
  const session: Session = {
    id: '0123456789abcdef',
    name: 'stage',
    phase: 'running',
    point,
    connect: 'test:///default',
    machineId: '5c1e5c1e-0000-4000-8000-00000000abcd',
    keepsIdentity: false,
    startedAt: new Date(0).toISOString(),
  };
  await new SessionStore(directory).put(session);
  const live = async (): Promise<Life> => {
    const store = new SessionStore(directory);
    const registry = new SessionRegistry(store, new PointUse(parts.repository));
    await registry.load();
    const own = t.use(new SessionDisks(parts, store, registry));
    const stored = registry.find('stage') ?? assert.fail('the session is stored');
    await own.open(stored);
    const history = await own.history(stored);
    await history.list();
    const rewinds = new Rewinds({ parts, store, registry, disks: own, machines: machine });
    return { store, registry, disks: own, rewinds, history, session: stored };
  };
  return { parts, point, machine, session, live };
}

/** What the disks read as now. */
export async function contents({ history }: Pick<Life, 'history'>): Promise<Record<string, Buffer>> {
  const found: Record<string, Buffer> = {};
  for (const disk of history.session.point.disks)
    found[disk.name] = Buffer.from(await readAll(history.overlay.device(disk)));
  return found;
}

/** A moment of its history as `selectState` finds it. */
export async function stateOf(
  { parts, session }: StageRig,
  { history }: Life,
  moment: Moment,
): Promise<RecoverableState> {
  const fold = history.journal.folds.findLast(({ sequence }) => sequence <= moment.sequence);
  const point =
    (await parts.catalog.points()).find(({ id }) => id === fold?.pointId) ?? assert.fail('its base is listed');
  assert.equal(point.machine.id, historyIdOf(session));
  if (point.journal?.sequence === moment.sequence) return { point };
  const { logId } = history.journal;
  return { point, moment: { logId, ...moment, consistency: 'crash-consistent', bookmark: null } };
}

/** What a state of its history reads as. */
export async function contentsAt(rig: StageRig, life: Life, state: RecoverableState): Promise<Record<string, Buffer>> {
  const { journal } = life.history;
  const journals = {
    openLayer: ({ after, upTo }: { after: number; upTo: number }) => journal.openView(after, upTo),
  };
  await using disks = await StateDisks.open({ repository: rig.parts.repository, journals }, state);
  const found: Record<string, Buffer> = {};
  for (const disk of state.point.disks) {
    await using device = disks.device(disk);
    found[disk.name] = Buffer.from(await readAll(device));
  }
  return found;
}
