// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { localPrincipal } from '../../appliance/access/principal.ts';
import type { Appliance, OperationContext } from '../../appliance/api/operations.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { initialize, openAppliance } from '../../appliance/main.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import type { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { assertNumbers, startWriting, untilWritten } from '../recover/migrate-rig.ts';
import { checkedAppliance } from '../support/checked-appliance.ts';
import { LiveProcess } from '../support/live-process.ts';
import { consoleOf } from '../support/machines.ts';
import type { TestContext } from '../support/test-scope.ts';

/** A step of a migration: a phase of its progress, and how far it has come. */
export type Step = readonly [phase: string, done: number];

/** The steps before the first disk has gone over, and those after the last. */
export const BEFORE: readonly Step[] = [
  ['making room', 0],
  ['making room', 1],
  ['copying 2 disks', 1],
  ['comparing', 1],
  ['going over', 0],
];
export const AFTER: readonly Step[] = [
  ['going over', 2],
  ['letting it go', 1],
  ['letting it go', 2],
  ['letting it go', 3],
  ['letting it go', 4],
];

const VICTIM = new URL('./migrate-victim.ts', import.meta.url).pathname;
const MIB = 1024 * 1024;

export interface KillRig {
  readonly libvirt: PrivateLibvirt;
  readonly connection: LibvirtConnection;
  readonly state: string;
  readonly place: string;
  /** A booted machine that writes numbers; nobody serves it when this settles. */
  boot(name: string): Promise<Domain>;
  /** A migration that is killed at that step. */
  kill(name: string, phase: string, done: number): Promise<void>;
  /** A new life of the service, with what it said when it began. */
  serve(): Promise<{ appliance: Appliance; notices: string[] }>;
}

export function unheard(notices: string[] = []): OperationContext {
  return {
    principal: localPrincipal(),
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onNotice: (notice) => notices.push(notice),
  };
}

export async function makeKillRig(t: TestContext): Promise<KillRig> {
  const directory = await t.tempDir();
  const [state, place] = [join(directory, 'state'), join(directory, 'production')];
  await mkdir(place);
  const libvirt = t.use(await PrivateLibvirt.start());
  const connection = t.use(await LibvirtConnection.open(libvirt.uri));
  await initialize({ stateDirectory: state, encryption: true });
  const disks = (['vda', 'vdb'] as const).map((target) => ({
    path: join(directory, `${target}.qcow2`),
    format: 'qcow2' as const,
    target,
  }));
  for (const { path } of disks) {
    await createDataDisk({
      path,
      sizeBytes: 32 * MIB,
      format: 'qcow2',
      files: { hello: Buffer.alloc(6 * MIB, path) },
    });
  }
  const image = await guestImage();
  const acceleration = await probeAcceleration(image);
  await connection.define(guestDomainXml({ name: 'web', image, acceleration, disks }));
  const open = async (onNotice: (sentence: string) => void): Promise<Appliance> =>
    checkedAppliance(await openAppliance({ stateDirectory: state, connect: libvirt.uri, isService: true, onNotice }));
  const first = await open(() => undefined);
  await first.backup({ target: 'web' }, unheard());
  await first[Symbol.asyncDispose]();
  return {
    libvirt,
    connection,
    state,
    place,
    boot: async (name) => {
      const appliance = await open(() => undefined);
      await appliance.boot({ point: 'web@latest', as: name }, unheard());
      const domain = await connection.domainByName(name);
      const shell = await consoleOf(t, libvirt, domain);
      await startWriting(shell);
      await untilWritten(shell);
      await shell.close();
      await appliance[Symbol.asyncDispose]();
      return domain;
    },
    kill: async (name, phase, done) => {
      const victim = t.use(new LiveProcess([process.execPath, VICTIM, state, name, place, phase, String(done)]));
      const { signal, stdout, stderr } = await victim.result;
      assert.equal(signal, 'SIGKILL', `${phase} ${done}: ${stdout}${stderr}`);
    },
    serve: async () => {
      const notices: string[] = [];
      return { appliance: t.use(await open((notice) => notices.push(notice))), notices };
    },
  };
}

export async function assertGoesOn(t: TestContext, rig: KillRig, domain: Domain): Promise<GuestConsole> {
  const shell = await consoleOf(t, rig.libvirt, domain);
  await assertNumbers(shell, await untilWritten(shell));
  assert.equal((await domain.state()).state, 'running');
  return shell;
}

/** Killed at a step before the first disk has gone over, a machine runs from the appliance as before, and nothing is left. */
export async function roundBefore(t: TestContext, rig: KillRig, domain: Domain, step: Step): Promise<void> {
  const { name } = domain;
  await rig.kill(name, ...step);
  const { appliance, notices } = await rig.serve();
  const why = `${step.join(' ')}: ${notices.join(' ')}`;
  assert.ok(notices.includes(`${name} is served again.`), why);
  assert.ok(notices.includes(`The migration of ${name} was interrupted; it runs from the appliance as before.`), why);
  assert.deepEqual(await readdir(rig.place), [], why);
  assert.doesNotMatch(await domain.xml(), /<mirror|production/, why);
  const shell = await assertGoesOn(t, rig, domain);
  await shell.close();
  await appliance[Symbol.asyncDispose]();
}

/** Killed at a step after the last disk has gone over, a machine is let go by the next start. */
export async function roundAfter(t: TestContext, rig: KillRig, name: string, step: Step): Promise<void> {
  const sessions = join(rig.state, 'sessions');
  const before = existsSync(sessions) ? await readdir(sessions) : [];
  const domain = await rig.boot(name);
  await rig.kill(name, ...step);
  await (await assertGoesOn(t, rig, domain)).close();
  const { appliance, notices } = await rig.serve();
  const why = `${step.join(' ')}: ${notices.join(' ')}`;
  assert.ok(
    notices.some((notice) => notice.startsWith(`${name} has been moved`)),
    why,
  );
  await assertIsNotOurs(appliance, name);
  assert.deepEqual(await readdir(sessions), before, why);
  await appliance[Symbol.asyncDispose]();
  await (await assertGoesOn(t, rig, domain)).close();
  assert.doesNotMatch(await domain.xml({ isInactive: true }), /nbd|understudy\.dev/, why);
  await domain.destroy();
  await domain.undefine();
  await emptyDirectory(rig.place);
}

/** The appliance knows no booted machine of that name. */
export async function assertIsNotOurs(appliance: Appliance, name: string): Promise<void> {
  const booted = await appliance.booted({}, unheard());
  assert.equal(booted.filter((machine) => machine.name === name).length, 0);
}

/** What a machine that was moved leaves is nothing to the next. */
export async function emptyDirectory(path: string): Promise<void> {
  for (const name of await readdir(path)) await rm(join(path, name));
}
