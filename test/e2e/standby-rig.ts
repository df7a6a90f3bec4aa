// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { localPrincipal } from '../../appliance/access/principal.ts';
import { connectAppliance } from '../../appliance/api/connect-appliance.ts';
import type { BackupReport } from '../../appliance/api/operations.ts';
import type { StandbySummary } from '../../appliance/api/schemas/standbys.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import type { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { ApplianceProcess } from '../support/appliance-process.ts';
import type { LiveProcess } from '../support/live-process.ts';
import { consoleOf, type LibvirtRig } from '../support/machines.ts';
import type { TestContext } from '../support/test-scope.ts';

const MIB = 1024 * 1024;
const POLL_MS = 5;
const PROTECTION_POLL_MS = 200;
export const MACHINE = 'web';
export const SPARE = 'web-standby';

/** Two hypervisors, a guest with a point on the first, its spare on the second, and a service in between. */
export class StandbyRig {
  readonly one: LibvirtRig;
  readonly two: LibvirtRig;
  readonly appliance: ApplianceProcess;
  readonly #t: TestContext;
  #shell: GuestConsole | undefined;
  service: LiveProcess;

  private constructor(
    t: TestContext,
    parts: { one: LibvirtRig; two: LibvirtRig; appliance: ApplianceProcess; service: LiveProcess },
  ) {
    this.#t = t;
    this.one = parts.one;
    this.two = parts.two;
    this.appliance = parts.appliance;
    this.service = parts.service;
  }

  /** The original has a file system on vda and a disk without one, vdb; both are in the point. */
  static async create(t: TestContext): Promise<StandbyRig> {
    const [one, two] = [await hypervisor(t), await hypervisor(t)];
    const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
    await appliance.ask('init');
    const service = await appliance.serve();
    const rig = new StandbyRig(t, { one, two, appliance, service });
    await rig.#startOriginal();
    await appliance.ask<BackupReport>('backup', MACHINE, '--connect', one.libvirt.uri);
    await appliance.ask('standby', 'create', MACHINE, '--connect', one.libvirt.uri, '--on', two.libvirt.uri);
    return rig;
  }

  original(): Promise<Domain> {
    return this.one.connection.domainByName(MACHINE);
  }

  spare(): Promise<Domain> {
    return this.two.connection.domainByName(SPARE);
  }

  /**
   * Of the original since it was started last. It stays connected: a guest whose port nobody has open holds up libvirt's events
   * for half a minute while it is backed up.
   */
  async originalShell(): Promise<GuestConsole> {
    this.#shell ??= await consoleOf(this.#t, this.one.libvirt, await this.original());
    return this.#shell;
  }

  /** The original was switched off. */
  async forgetShell(): Promise<void> {
    await this.#shell?.close();
    this.#shell = undefined;
  }

  async spareShell(): Promise<GuestConsole> {
    return consoleOf(this.#t, this.two.libvirt, await this.spare());
  }

  async state(domain: Promise<Domain>): Promise<string> {
    return (await (await domain).state()).state;
  }

  async standby(): Promise<StandbySummary> {
    const [standby] = await this.appliance.ask<StandbySummary[]>('standby', 'list');
    assert.ok(standby);
    return standby;
  }

  /** Puts the original under continuous protection; settles when every write of it is kept. */
  async protect(): Promise<void> {
    if ((await this.appliance.ask<unknown[]>('protection')).length === 0) {
      await this.appliance.ask('protect', MACHINE, '--continuous', '--connect', this.one.libvirt.uri);
    }
    for (;;) {
      const [report] = await this.appliance.ask<{ readonly state: string }[]>('protection');
      if (report?.state === 'protected') return;
      await delay(PROTECTION_POLL_MS);
    }
  }

  /** Kills the service when the standby is in one of the phases, and settles with the phase that it died in. */
  async killIn(...phases: readonly StandbySummary['phase'][]): Promise<string> {
    const connected = await connectAppliance({
      stateDirectory: this.appliance.state,
      open: () => Promise.reject(new Error('the service runs')),
      signal: new AbortController().signal,
      onNotice: () => undefined,
    });
    const context = {
      principal: localPrincipal(),
      signal: new AbortController().signal,
      onProgress: () => undefined,
      onNotice: () => undefined,
    };
    for (;;) {
      const [standby] = await connected.appliance.standbyList({}, context);
      if (standby !== undefined && phases.includes(standby.phase)) {
        this.service.kill('SIGKILL');
        await this.service.result;
        return standby.phase;
      }
      await delay(POLL_MS);
    }
  }

  async restartService(): Promise<void> {
    this.service = await this.appliance.serve();
  }

  async #startOriginal(): Promise<void> {
    const { libvirt, connection } = this.one;
    const image = await guestImage();
    const [data, plain] = [join(libvirt.directory, 'data.qcow2'), join(libvirt.directory, 'plain.qcow2')];
    await createDataDisk({ path: data, sizeBytes: 64 * MIB, format: 'qcow2', files: { hello: 'world' } });
    await createImage({ location: plain, format: 'qcow2' }, { sizeBytes: 64 * MIB });
    const domain = await connection.define(
      guestDomainXml({
        name: MACHINE,
        image,
        acceleration: await probeAcceleration(image),
        disks: [
          { path: data, format: 'qcow2', target: 'vda', serial: 'DATA-1' },
          { path: plain, format: 'qcow2', target: 'vdb', serial: 'DATA-2' },
        ],
        macAddress: '52:54:00:11:22:33',
      }),
    );
    await domain.setAutostart(true);
    await domain.start();
    const shell = await this.originalShell();
    await shell.expect('head -c 6000000 /dev/urandom > /dev/vdb; sync');
  }
}

async function hypervisor(t: TestContext): Promise<LibvirtRig> {
  const libvirt = t.use(await PrivateLibvirt.start());
  const connection = t.use(await LibvirtConnection.open(libvirt.uri));
  return { libvirt, connection };
}

/** What the guest reads of its plain disk, past its caches. */
export async function sumOf(shell: GuestConsole): Promise<string> {
  return shell.expect('sync; echo 3 > /proc/sys/vm/drop_caches; md5sum < /dev/vdb', { timeoutMs: 60_000 });
}
