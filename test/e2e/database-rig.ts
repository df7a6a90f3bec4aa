// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { BootedMachine, BootReport } from '../../appliance/api/operations.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import {
  channelSocketPath,
  createDatabaseDisks,
  type DatabaseJournal,
  databaseDomainXml,
  databaseGuestImage,
  REPORT_PORT,
  verifyDatabase,
} from '../../lab/database-guest.ts';
import { DatabaseReports } from '../../lab/database-reports.ts';
import { type Acceleration, type GuestImage, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { ApplianceProcess } from '../support/appliance-process.ts';
import type { LiveProcess } from '../support/live-process.ts';
import { patience } from '../support/patience.ts';

export const ORIGINAL = 'database';
export const SPARE = 'spare';
/** Between two transactions of the guest. */
const PAUSE_US = 20_000;
const POLL_MS = 50;
const WAIT_MS = 60_000;

/**
 * A libvirt with a machine that commits numbered transactions to a database and reports each, and the real command line and
 * service beside it. Counts what it checks; whatever is opened must be intact.
 */
export class DatabaseRig implements AsyncDisposable {
  readonly appliance: ApplianceProcess;
  readonly connect: readonly string[];
  /** Commits that were reported before something was killed or looked at, and were all there. */
  commitsChecked = 0;
  /** Databases that were opened and checked, each by a guest. */
  databasesChecked = 0;
  /** What was done last, for the report of a failure. */
  readonly steps: string[] = [];
  readonly #directory: string;
  readonly #journal: DatabaseJournal;
  readonly #guest: { readonly image: GuestImage; readonly acceleration: Acceleration };
  readonly #libvirt: PrivateLibvirt;
  readonly #connection: LibvirtConnection;
  #service: LiveProcess | undefined;
  #reports: DatabaseReports | undefined;
  #startedMs: number = 0;

  private constructor(made: {
    readonly directory: string;
    readonly journal: DatabaseJournal;
    readonly guest: { readonly image: GuestImage; readonly acceleration: Acceleration };
    readonly libvirt: PrivateLibvirt;
    readonly connection: LibvirtConnection;
  }) {
    this.#directory = made.directory;
    this.#journal = made.journal;
    this.#guest = made.guest;
    this.#libvirt = made.libvirt;
    this.#connection = made.connection;
    this.connect = ['--connect', made.libvirt.uri];
    this.appliance = new ApplianceProcess({ use: (process) => process }, join(made.directory, 'state'));
  }

  /** Works in an empty directory with a short path, which is the caller's. The machine runs, and so does the service. */
  static async create(directory: string, journal: DatabaseJournal): Promise<DatabaseRig> {
    const base = await guestImage();
    const guest = { image: await databaseGuestImage(base), acceleration: await probeAcceleration(base) };
    const libvirt = await PrivateLibvirt.start();
    const connection = await LibvirtConnection.open(libvirt.uri);
    const rig = new DatabaseRig({ directory, journal, guest, libvirt, connection });
    try {
      await rig.appliance.ask('init');
      await rig.serve();
      const disks = await createDatabaseDisks(libvirt.directory);
      await connection.define(databaseDomainXml({ name: ORIGINAL, ...guest, disks, journal, pauseUs: PAUSE_US }));
      await rig.startOriginal(0);
      return rig;
    } catch (error) {
      await rig[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#reports?.close();
    await this.#service?.[Symbol.asyncDispose]();
    await this.#connection[Symbol.asyncDispose]();
    await this.#libvirt[Symbol.asyncDispose]();
  }

  /** What the original reports. */
  get original(): DatabaseReports {
    assert.ok(this.#reports !== undefined);
    return this.#reports;
  }

  /** Begins the notes of a round. */
  begin(step: string): void {
    this.steps.length = 0;
    this.#startedMs = systemClock.elapsedMs();
    this.note(step);
  }

  note(step: string): void {
    this.steps.push(`${((systemClock.elapsedMs() - this.#startedMs) / 1000).toFixed(1)} s: ${step}`);
  }

  async serve(): Promise<void> {
    this.#service = await this.appliance.serve();
  }

  async killService(): Promise<void> {
    assert.ok(this.#service !== undefined);
    this.#service.kill('SIGKILL');
    await this.#service.result;
    this.note('the service was killed');
  }

  async killMachine(name: string): Promise<void> {
    const pid = await this.#libvirt.qemuPid(name);
    assert.ok(pid !== undefined, `${name} does not run`);
    process.kill(pid, 'SIGKILL');
  }

  /** Settles when the original, which was killed, has ended for libvirt too. Returns what it had reported. */
  async originalEnded(): Promise<number> {
    await this.original.ended();
    const domain = await this.#domain(ORIGINAL);
    await until('the original is down', async () => (await domain.state()).state === 'shut-off');
    this.note(`the original was killed at ${this.original.newest}`);
    return this.original.newest;
  }

  /** Starts the machine that is defined, and checks that it still has what it had reported. */
  async startOriginal(reported: number): Promise<void> {
    await (await this.#domain(ORIGINAL)).start();
    this.#reports = await this.listen(ORIGINAL);
    await this.assertHolds(this.#reports, reported);
  }

  async listen(name: string): Promise<DatabaseReports> {
    const path = channelSocketPath(await (await this.#domain(name)).xml(), REPORT_PORT);
    assert.ok(path !== undefined, `${name} has no port for its reports`);
    return await DatabaseReports.connect(path);
  }

  async boot(point: string): Promise<DatabaseReports> {
    await this.appliance.ask<BootReport>('boot', point, '--as', SPARE, ...this.connect);
    return await this.listen(SPARE);
  }

  async untilSpareIsDown(): Promise<void> {
    await until('the booted machine is down', async () => {
      const machines = await this.appliance.ask<BootedMachine[]>('booted');
      return machines.some(({ name, state }) => name === SPARE && state === 'shut-off');
    });
  }

  /** The state that a database is in when its guest starts: intact, and with everything that had been reported. */
  async assertHolds(reports: DatabaseReports, reported: number): Promise<number> {
    const state = await reports.state(WAIT_MS * patience());
    this.note(`booted: ${JSON.stringify(state)}`);
    assert.ok('intactAt' in state, JSON.stringify(state));
    this.#count(state.intactAt, reported);
    return state.intactAt;
  }

  /** Reads both disks of a point through exports, in a QEMU of its own. Returns the number that the database is at. */
  async examine(point: string, reported: number): Promise<number> {
    const running = ['vda', 'vdb'].map((disk) =>
      this.appliance.start('export', point, disk, '--socket', join(this.#directory, `${disk}.sock`)),
    );
    try {
      for (const process of running) await process.until(({ stdout }) => stdout.includes('\n'));
      const [vda = '', vdb = ''] = running.map(({ stdout }) => stdout.trim());
      const state = await verifyDatabase({ ...this.#guest, journal: this.#journal }, { vda, vdb });
      this.note(`export of ${point}: ${JSON.stringify(state)}`);
      assert.ok('intactAt' in state, `${point}: ${JSON.stringify(state)}`);
      this.#count(state.intactAt, reported);
      return state.intactAt;
    } finally {
      for (const process of running) process.kill('SIGINT');
      await Promise.all(running.map(({ result }) => result));
    }
  }

  /** Everything that a guest has reported, also what arrived while this process did something else. */
  async settled(reports: DatabaseReports): Promise<number> {
    await delay(POLL_MS);
    await reports.until(reports.newest + 1);
    return reports.newest;
  }

  #count(number: number, reported: number): void {
    assert.ok(number >= reported, `commit ${reported} was reported, and the database is at ${number}`);
    this.databasesChecked += 1;
    this.commitsChecked += reported;
  }

  #domain(name: string): Promise<Domain> {
    return this.#connection.domainByName(name);
  }
}

export async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const deadline = systemClock.elapsedMs() + WAIT_MS * patience();
  while (!(await condition())) {
    if (systemClock.elapsedMs() > deadline) assert.fail(`waited too long: ${what}`);
    await delay(POLL_MS);
  }
}
