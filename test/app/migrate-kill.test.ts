// SPDX-License-Identifier: Apache-2.0
// time limit: 900 s
import assert from 'node:assert/strict';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Appliance, OperationContext } from '../../appliance/api/operations.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { initialize, openAppliance } from '../../appliance/main.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import type { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { assertNumbers, startWriting, untilWritten } from '../recover/migrate-rig.ts';
import { LiveProcess } from '../support/live-process.ts';
import { consoleOf, GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('a migration whose service is killed', { requires: GUEST_REQUIREMENTS, timeoutMs: 400_000 });
const VICTIM = new URL('./migrate-victim.ts', import.meta.url).pathname;
const MIB = 1024 * 1024;

interface KillRig {
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

function unheard(notices: string[] = []): OperationContext {
  return {
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onNotice: (notice) => notices.push(notice),
  };
}

async function makeKillRig(t: TestContext): Promise<KillRig> {
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
  const open = (onNotice: (sentence: string) => void): Promise<Appliance> =>
    openAppliance({ stateDirectory: state, connect: libvirt.uri, isService: true, onNotice });
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

async function assertGoesOn(t: TestContext, rig: KillRig, domain: Domain): Promise<GuestConsole> {
  const shell = await consoleOf(t, rig.libvirt, domain);
  await assertNumbers(shell, await untilWritten(shell));
  assert.equal((await domain.state()).state, 'running');
  return shell;
}

const BEFORE = [
  ['making room', 0],
  ['making room', 1],
  ['copying 2 disks', 1],
  ['comparing', 1],
  ['going over', 0],
] as const;

test('before the first disk has gone over it runs from the appliance as before, and nothing is left', async (t) => {
  const rig = await makeKillRig(t);
  const domain = await rig.boot('before');
  for (const [phase, done] of BEFORE) {
    await rig.kill('before', phase, done);
    const { appliance, notices } = await rig.serve();
    assert.ok(notices.includes('before is served again.'), `${phase} ${done}: ${notices.join(' ')}`);
    assert.ok(
      notices.includes('The migration of before was interrupted; it runs from the appliance as before.'),
      `${phase} ${done}: ${notices.join(' ')}`,
    );
    assert.deepEqual(await readdir(rig.place), [], `${phase} ${done}`);
    const xml = await domain.xml();
    assert.doesNotMatch(xml, /<mirror|production/);
    const shell = await assertGoesOn(t, rig, domain);
    await shell.close();
    await appliance[Symbol.asyncDispose]();
  }
});

test('between two disks it runs from both places, and the next start moves the other one if its copy is still kept equal', async (t) => {
  const rig = await makeKillRig(t);
  const domain = await rig.boot('half');
  await rig.kill('half', 'going over', 1);
  const { appliance, notices } = await rig.serve();
  assert.ok(
    notices.some((notice) => notice.startsWith('half has been moved')),
    notices.join(' '),
  );
  assert.deepEqual(await appliance.booted({}, unheard()), []);
  await appliance[Symbol.asyncDispose]();
  await assertGoesOn(t, rig, domain);
  assert.doesNotMatch(await domain.xml(), /nbd|understudy\.dev/);
});

test('a machine that runs from both places is not stopped, and is finished by another migrate', async (t) => {
  const rig = await makeKillRig(t);
  const domain = await rig.boot('half');
  await rig.kill('half', 'going over', 1);
  await domain.abortBlockJob('vdb');
  const { appliance, notices } = await rig.serve();
  assert.ok(
    notices.some((notice) => notice.startsWith('half runs half from the appliance')),
    notices.join(' '),
  );
  await assert.rejects(appliance.stop({ name: 'half' }, unheard()), { code: 'MIGRATION_UNFINISHED' });
  await (await assertGoesOn(t, rig, domain)).close();
  const report = await appliance.migrate({ name: 'half' }, unheard());
  assert.equal(report.disks.length, 2);
  assert.deepEqual(await appliance.booted({}, unheard()), []);
  await appliance[Symbol.asyncDispose]();
  await assertGoesOn(t, rig, domain);
  assert.doesNotMatch(await domain.xml(), /nbd|understudy\.dev/);
});

const AFTER = [
  ['going over', 2],
  ['letting it go', 1],
  ['letting it go', 2],
  ['letting it go', 3],
  ['letting it go', 4],
] as const;

test('after the last disk the next start lets it go', async (t) => {
  const rig = await makeKillRig(t);
  for (const [index, [phase, done]] of AFTER.entries()) {
    const name = `after-${index}`;
    const domain = await rig.boot(name);
    await rig.kill(name, phase, done);
    await (await assertGoesOn(t, rig, domain)).close();
    const { appliance, notices } = await rig.serve();
    const why = `${phase} ${done}: ${notices.join(' ')}`;
    assert.ok(
      notices.some((notice) => notice.startsWith(`${name} has been moved`)),
      why,
    );
    assert.deepEqual(await appliance.booted({}, unheard()), [], why);
    assert.deepEqual(await readdir(join(rig.state, 'sessions')), [], why);
    await appliance[Symbol.asyncDispose]();
    await (await assertGoesOn(t, rig, domain)).close();
    assert.doesNotMatch(await domain.xml({ isInactive: true }), /nbd|understudy\.dev/, why);
    await domain.destroy();
  }
});
