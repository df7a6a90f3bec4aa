// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { BlockDevice } from '../../../appliance/block/block-device.ts';
import { systemClock } from '../../../appliance/core/clock.ts';
import { keyFromHex } from '../../../appliance/core/content-id.ts';
import { parseMachineId } from '../../../appliance/core/ids.ts';
import { ConnectionCache } from '../../../appliance/hypervisor/libvirt/connection-cache.ts';
import type { Domain } from '../../../appliance/hypervisor/libvirt/domain.ts';
import { ContinuousService, type ProtectionStatus } from '../../../appliance/protect/continuous/continuous-service.ts';
import {
  DEFAULT_SESSION_SETTINGS,
  type SessionSettings,
} from '../../../appliance/protect/continuous/session-settings.ts';
import { ProtectService } from '../../../appliance/protect/protect-service.ts';
import type { Journal, MomentWish } from '../../../appliance/volume/journal.ts';
import { layeredDevice } from '../../../appliance/volume/logged-device.ts';
import { PointDevice } from '../../../appliance/volume/point-device.ts';
import type { FixtureRepository } from '../../support/fixture-repository.ts';
import type { TestContext } from '../../support/test-scope.ts';

const POLL_MS = 20;

/** One life of the appliance's service, with continuous protection, over a repository of the test. */
export class ContinuousRig implements AsyncDisposable {
  readonly fixture: FixtureRepository;
  readonly continuous: ContinuousService;
  readonly notices: readonly string[];
  /** What listeners were told of machines, in order: `id: state (mode)`. */
  readonly states: readonly string[];
  readonly #resources: AsyncDisposableStack;

  private constructor(
    parts: Pick<ContinuousRig, 'fixture' | 'continuous' | 'notices' | 'states'>,
    resources: AsyncDisposableStack,
  ) {
    this.fixture = parts.fixture;
    this.continuous = parts.continuous;
    this.notices = parts.notices;
    this.states = parts.states;
    this.#resources = resources;
  }

  static async start(
    t: TestContext,
    directory: string,
    fixture: FixtureRepository,
    settings: Partial<SessionSettings> = {},
  ): Promise<ContinuousRig> {
    const runtimeDirectory = join(directory, 'run');
    const scratchDirectory = join(directory, 'scratch');
    await mkdir(runtimeDirectory, { recursive: true });
    await mkdir(scratchDirectory, { recursive: true });
    const resources = new AsyncDisposableStack();
    const { repository, catalog } = resources.use(fixture);
    const connections = resources.use(new ConnectionCache());
    const connect = (uri: string): ReturnType<ConnectionCache['get']> => connections.get(uri);
    const clock = systemClock;
    const own = { repository, catalog, clock, runtimeDirectory, scratchDirectory, connect };
    const protect = new ProtectService(own);
    const notices: string[] = [];
    const states: string[] = [];
    const continuous = resources.use(
      await ContinuousService.open({
        ...own,
        protect,
        stateDirectory: directory,
        settings: { ...DEFAULT_SESSION_SETTINGS, retryMs: 100, ...settings },
        onNotice: (sentence) => notices.push(sentence),
        onState: (machineId, { state, mode }) => states.push(`${machineId}: ${state} (${mode})`),
      }),
    );
    return t.use(new ContinuousRig({ fixture, continuous, notices, states }, resources));
  }

  async status(name: string): Promise<ProtectionStatus & { readonly journal: Journal }> {
    const found = (await this.continuous.protection()).find(({ record }) => record.name === name);
    assert.ok(found?.journal !== undefined, `${name} is not protected: ${found?.problem}`);
    return { ...found, journal: found.journal };
  }

  /** Waits until the machine is in a state (and mode). */
  async until(name: string, state: string, mode?: string): Promise<void> {
    for (;;) {
      const { session } = await this.status(name);
      const change = session?.change;
      if (change?.state === state && (mode === undefined || change.mode === mode)) return;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** All of a disk at a moment, through its base and the journal. */
  async contentAt(domain: Domain, disk: string, wish: MomentWish): Promise<Buffer> {
    const { fixture } = this;
    const machineId = parseMachineId(domain.uuid);
    const journal = await this.continuous.journalOf(machineId);
    assert.ok(journal !== undefined);
    const moment = await journal.resolve(wish);
    const points = (await fixture.catalog.points()).filter(
      ({ journal: place }) => place?.logId === journal.logId && place.sequence <= moment.sequence,
    );
    const base = points.sort((a, b) => (a.journal?.sequence ?? 0) - (b.journal?.sequence ?? 0)).at(-1);
    const found = base?.disks.find(({ name }) => name === disk);
    assert.ok(base?.journal !== undefined && found !== undefined);
    await using layer = await journal.openView(base.journal.sequence, moment.sequence);
    const { reader, chunkBytes } = fixture.repository;
    const root = keyFromHex(found.root);
    await using device: BlockDevice = layeredDevice({
      base: new PointDevice({ reader, chunkBytes, root, sizeBytes: found.sizeBytes }),
      layer,
      disk: base.journal.disks[disk] ?? -1,
    });
    const content = Buffer.alloc(found.sizeBytes);
    await device.read(0, content);
    return content;
  }

  /** The disks of the newest base. */
  async disksOf({ uuid }: Domain): Promise<string[]> {
    const journal = await this.continuous.journalOf(parseMachineId(uuid));
    const base = (await this.fixture.catalog.points()).find(({ id }) => id === journal?.lastFold?.pointId);
    return (base?.disks ?? []).map(({ name }) => name);
  }

  close(): Promise<void> {
    return this.#resources.disposeAsync();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
