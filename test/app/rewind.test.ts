// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Appliance } from '../../appliance/api/operations.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { initialize, openAppliance } from '../../appliance/main.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import type { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { readAll } from '../recover/fixture.ts';
import { checkedAppliance } from '../support/checked-appliance.ts';
import { LiveProcess } from '../support/live-process.ts';
import { consoleOf, GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { unheard } from './migrate-kill-rig.ts';

const test = suite('a machine that runs from the appliance is rewound', {
  requires: GUEST_REQUIREMENTS,
  timeoutMs: 300_000,
});
const VICTIM = new URL('./rewind-victim.ts', import.meta.url).pathname;
const MIB = 1024 * 1024;
const NAME = 'stage';

interface Rig {
  readonly shell: () => Promise<GuestConsole>;
  readonly serve: () => Promise<{ readonly appliance: Appliance; readonly notices: readonly string[] }>;
  /** A rewind whose service is killed when it comes to a phase. */
  readonly kill: (moment: string, phase: string) => Promise<void>;
}

/** A machine that was backed up, and is shut off. */
async function makeRig(t: TestContext): Promise<Rig> {
  const directory = await t.tempDir();
  const state = join(directory, 'state');
  const libvirt = t.use(await PrivateLibvirt.start());
  const connection = t.use(await LibvirtConnection.open(libvirt.uri));
  await initialize({ stateDirectory: state, encryption: true });
  const path = join(directory, 'vda.qcow2');
  await createDataDisk({ path, sizeBytes: 16 * MIB, format: 'qcow2', files: { hello: 'from the point' } });
  const image = await guestImage();
  const acceleration = await probeAcceleration(image);
  const disks = [{ path, format: 'qcow2', target: 'vda' } as const];
  await connection.define(guestDomainXml({ name: 'web', image, acceleration, disks }));
  return {
    shell: async () => consoleOf(t, libvirt, await connection.domainByName(NAME)),
    serve: async () => {
      const notices: string[] = [];
      const onNotice = (notice: string): unknown => notices.push(notice);
      const appliance = await openAppliance({ stateDirectory: state, connect: libvirt.uri, isService: true, onNotice });
      return { appliance: t.use(checkedAppliance(appliance)), notices };
    },
    kill: async (moment, phase) => {
      const victim = t.use(new LiveProcess([process.execPath, VICTIM, state, moment, phase]));
      const { signal, stdout, stderr } = await victim.result;
      assert.equal(signal, 'SIGKILL', `${phase}: ${stdout}${stderr}`);
    },
  };
}

/** What the disk holds, as the guest says. */
async function hashInGuest(shell: GuestConsole): Promise<string> {
  const said = await shell.expect('sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/vda', {
    timeoutMs: 60_000,
  });
  return said.split(' ')[0] ?? '';
}

/** What an export of a state holds. */
async function hashOf(appliance: Appliance, point: string): Promise<string> {
  const { id, uri } = await appliance.export({ point }, unheard());
  await using device = await connectNbd(uri, { reconnect: false });
  const hash = createHash('sha256')
    .update(await readAll(device))
    .digest('hex');
  await device.close();
  await appliance.unexport({ id }, unheard());
  return hash;
}

async function newestSequence(appliance: Appliance): Promise<number> {
  const { stretches } = await appliance.timeline({ machine: NAME }, unheard());
  return stretches.at(-1)?.end.sequence ?? 0;
}

test('its moments are what the guest said, a rewind brings one back, kills change nothing, and it is undone', async (t) => {
  const { shell: shellOf, serve, kill } = await makeRig(t);
  const { appliance: first } = await serve();
  await first.backup({ target: 'web' }, unheard());
  await first.boot({ point: 'web@latest', as: NAME }, unheard());
  let shell = await shellOf();
  const said: { readonly sequence: number; readonly hash: string }[] = [];
  const note = async (appliance: Appliance): Promise<void> => {
    const hash = await hashInGuest(shell);
    said.push({ sequence: await newestSequence(appliance), hash });
  };
  for (const number of [1, 2, 3]) {
    await shell.expect(`echo ${number} > /data/n${number}`);
    await note(first);
    // The base changes under the guest.
    if (number === 2) assert.equal((await first.backup({ target: NAME }, unheard())).kind, 'incremental');
  }
  const [status] = await first.protection({}, unheard());
  assert.deepEqual([status?.machine, status?.mode, status?.state, status?.rpoMs], [NAME, 'stage', 'protected', 0]);
  await first.bookmark({ machine: NAME, name: 'good' }, unheard());
  await shell.expect('rm /data/n1; echo lost > /data/after');
  await note(first);

  const report = await first.rewind({ point: `${NAME}@bookmark:good` }, unheard());
  shell = await shellOf();
  assert.equal(await shell.expect('cat /data/hello /data/n1; ls /data | grep -c after; true'), 'from the point1\n0');
  await shell.expect('echo branch > /data/branch');
  await note(first);
  await shell.close();
  await first[Symbol.asyncDispose]();

  // Killed before the machine is off, and when it is off: it is what it was, and runs.
  for (const phase of ['switching the machine off', 'bringing the state back']) {
    await kill(`${NAME}@bookmark:"${report.bookmark}"`, phase);
    const { appliance, notices } = await serve();
    assert.deepEqual(
      notices.filter((notice) => notice.includes(NAME)),
      phase.startsWith('switching')
        ? [`${NAME} is served again.`]
        : [`${NAME} is served again.`, `The rewind of ${NAME} was interrupted; it goes on as it was.`],
    );
    shell = await shellOf();
    assert.equal(await shell.expect('cat /data/n1 /data/branch'), '1\nbranch');
    await shell.close();
    await appliance[Symbol.asyncDispose]();
  }

  const { appliance } = await serve();
  await appliance.rewind({ point: `${NAME}@bookmark:"${report.bookmark}"` }, unheard());
  shell = await shellOf();
  assert.equal(await shell.expect('cat /data/after; ls /data | grep -c "n1\\|branch"; true'), 'lost\n0');
  await note(appliance);
  for (const { sequence, hash } of said) {
    assert.equal(await hashOf(appliance, `${NAME}@seq:${sequence}`), hash, `sequence ${sequence}`);
  }
  const { stretches } = await appliance.timeline({ machine: NAME }, unheard());
  const refused = async (point: string, code: Parameters<typeof hasCode>[1]): Promise<void> => {
    await assert.rejects(appliance.rewind({ point }, unheard()), (error) => hasCode(error, code));
  };
  const ended = stretches.find(({ endReason }) => endReason === 'it was switched off for a rewind');
  assert.ok(ended);
  await refused(`${NAME}@seq:${ended.end.sequence + 1}`, 'MOMENT_IN_GAP');
  await refused('web@latest', 'MACHINE_NOT_FOUND');
  await refused(`${NAME}@seq:999999`, 'MOMENT_NOT_FOUND');
  await appliance.stop({ name: NAME }, unheard());
  await refused(`${NAME}@latest`, 'DOMAIN_WRONG_STATE');
  await appliance.stop({ name: NAME, discard: true }, unheard());
  const left = await appliance.points({ machine: NAME }, unheard());
  assert.ok(left.length > 0 && left.every(({ kind }) => kind === 'incremental'));
});
