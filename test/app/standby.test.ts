// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { copyFile, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { localPrincipal } from '../../appliance/access/principal.ts';
import type { Appliance, OperationContext } from '../../appliance/api/operations.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { runTool } from '../../appliance/hypervisor/tool.ts';
import { initialize, openAppliance } from '../../appliance/main.ts';
import { checkedAppliance } from '../support/checked-appliance.ts';
import { LIBVIRT_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

/* Spares of machines without an operating system: what they are made of, and which state they start from. */
const CODE = '/usr/share/OVMF/OVMF_CODE_4M.fd';
const VARIABLES = '/usr/share/OVMF/OVMF_VARS_4M.fd';
const test = suite('a spare', { requires: [...LIBVIRT_REQUIREMENTS, 'qemu-io', 'qemu-nbd'], timeoutMs: 90_000 });
const UUID = '7c1f6f0e-7a55-4c0c-9a77-2f1f4d6f3f10';
const MIB = 1024 * 1024;

interface Rig {
  readonly one: LibvirtRig;
  readonly two: LibvirtRig;
  readonly appliance: Appliance;
  readonly state: string;
  readonly disk: string;
}

const shared = test.share(async (t): Promise<Rig> => {
  const [one, two] = [await startLibvirt(t), await startLibvirt(t)];
  const state = join(await t.tempDir(), 'state');
  await initialize({ stateDirectory: state, encryption: false });
  const appliance = t.use(
    checkedAppliance(
      await openAppliance({
        stateDirectory: state,
        connect: one.libvirt.uri,
        isService: true,
        onNotice: () => undefined,
      }),
    ),
  );
  const disk = join(one.libvirt.directory, 'disk.qcow2');
  await createImage({ location: disk, format: 'qcow2' }, { sizeBytes: 16 * MIB });
  return { one, two, appliance, state, disk };
});

function context(more: Partial<OperationContext> = {}): OperationContext {
  const { signal } = new AbortController();
  return { principal: localPrincipal(), signal, onProgress: () => undefined, onNotice: () => undefined, ...more };
}

async function define(
  { one, disk }: Rig,
  parts: { memoryMiB: number; os?: string; devices?: string },
): Promise<Domain> {
  return one.connection.define(
    `<domain type="qemu"><name>web</name><uuid>${UUID}</uuid><memory unit="MiB">${parts.memoryMiB}</memory>` +
      `<os>${parts.os ?? '<type arch="x86_64" machine="pc">hvm</type>'}</os><features><acpi/></features><devices>` +
      `<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="${disk}"/><target dev="vda" bus="virtio"/></disk>` +
      `${parts.devices ?? ''}<controller type="usb" model="none"/><memballoon model="none"/></devices></domain>`,
  );
}

/** What a machine that is off has on its disk. */
async function fill({ disk }: Rig, byte: number): Promise<void> {
  await runTool('qemu-io', ['-f', 'qcow2', '-c', `write -P ${byte} 1M 1M`, disk]);
}

/** What a machine that runs writes. */
async function write(domain: Domain, byte: number): Promise<void> {
  const line = `qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P ${byte} 2M 1M"`;
  await domain.monitorCommand({ execute: 'human-monitor-command', arguments: { 'command-line': line } });
}

async function holds({ disk }: Rig, byte: number): Promise<void> {
  await runTool('qemu-io', ['-f', 'qcow2', '-c', `read -P ${byte} 1M 1M`, disk]);
}

test('is plugged into the networks as mapped, and follows the hardware of its original with each point', async () => {
  const rig = await shared();
  const { appliance, two } = rig;
  // Every host has `lo`, and none `lan0`.
  const card = (device: string): string =>
    `<interface type="direct"><source dev="${device}" mode="bridge"/></interface>`;
  await define(rig, { memoryMiB: 64, devices: card('lan0') });
  await fill(rig, 1);
  await appliance.backup({ target: 'web' }, context());
  const made = await appliance.standbyCreate({ name: 'web', on: two.libvirt.uri, network: 'lan0=lo' }, context());
  assert.ok(made.changes.includes('Network card 1 is plugged into lo instead of lan0.'), made.changes.join('\n'));
  const before = await (await two.connection.domainByName('web-standby')).xml();
  assert.match(before, /<source dev='lo' mode='bridge'\/>/);
  await define(rig, { memoryMiB: 96, devices: card('lan0') + card('dmz0') });
  await appliance.backup({ target: 'web' }, context());
  const after = await (await two.connection.domainByName('web-standby')).xml();
  assert.match(after, /<memory unit='KiB'>98304</);
  // A card that is not mapped has no cable where its network is not.
  assert.deepEqual(after.match(/<interface type='[^']+'|<source dev='[^']+'|<link state='[^']+'/g), [
    "<interface type='direct'",
    "<source dev='lo'",
    "<interface type='user'",
    "<link state='down'",
  ]);
  await appliance.standbyRemove({ name: 'web' }, context());
});

test('follows the hardware of a machine under continuous protection when its journal is folded', async () => {
  const rig = await shared();
  const { appliance, one, two } = rig;
  const domain = await define(rig, { memoryMiB: 64 });
  await appliance.backup({ target: 'web' }, context());
  await appliance.standbyCreate({ name: 'web', on: two.libvirt.uri }, context());
  await domain.start();
  await appliance.protect({ target: 'web', connect: one.libvirt.uri }, context());
  while ((await appliance.protection({}, context()))[0]?.state !== 'protected') await delay(50);
  await define(rig, { memoryMiB: 80 });
  await write(domain, 5);
  await appliance.backup({ target: 'web' }, context());
  const spare = await two.connection.domainByName('web-standby');
  while (!(await spare.xml()).includes("<memory unit='KiB'>81920<")) await delay(50);
  await appliance.unprotect({ name: 'web' }, context());
  await domain.destroy();
  await appliance.standbyRemove({ name: 'web' }, context());
});

test(
  'starts an earlier state with its firmware variables, and what it wrote comes back, after the state before was kept',
  async (t) => {
    const rig = await shared();
    const { appliance, one, two } = rig;
    const variables = join(one.libvirt.directory, 'variables.fd');
    await copyFile(VARIABLES, variables);
    const os =
      '<type arch="x86_64" machine="q35">hvm</type>' +
      `<loader readonly="yes" type="pflash">${CODE}</loader><nvram>${variables}</nvram>`;
    const original = await define(rig, { memoryMiB: 128, os });
    await fill(rig, 2);
    const earlier = await appliance.backup({ target: 'web' }, context());
    await fill(rig, 3);
    const later = await appliance.backup({ target: 'web' }, context());
    await appliance.standbyCreate({ name: 'web', on: two.libvirt.uri }, context());
    const saved = await readFile(variables);
    const over = await failOver(t, rig, earlier.createdAt);
    assert.equal(over.planned, true);
    assert.equal(over.point, earlier.point);
    assert.deepEqual(over.variables, saved);
    const spare = await two.connection.domainByName('web-standby');
    await write(spare, 4);
    // The firmware keeps what it finds out in its first boot.
    const [session = ''] = await readdir(join(rig.state, 'sessions'));
    const ofSpare = join(rig.state, 'sessions', session, 'nvram');
    while ((await readFile(ofSpare)).equals(saved)) await delay(50);

    const back = await appliance.failback({ name: 'web', force: true }, context());
    assert.equal(back.method, 'everything');
    assert.notEqual(back.pointBefore, later.point);
    await original.destroy();
    await holds(rig, 2);
    await runTool('qemu-io', ['-f', 'qcow2', '-c', 'read -P 4 2M 1M', rig.disk]);
    assert.equal((await readFile(variables)).equals(saved), false);
    assert.equal((await readFile(variables)).length, saved.length);
    await appliance.standbyRemove({ name: 'web' }, context());
  },
  { requires: [CODE, VARIABLES] },
);

interface Over {
  readonly planned: boolean;
  readonly point: string;
  /** Of the firmware, when the spare was about to start. */
  readonly variables: Buffer;
}

/** To the state of a time; nobody in the machine would ever answer, so that is not waited for. */
async function failOver(t: TestContext, { appliance, state }: Rig, at: string): Promise<Over> {
  const silence = new AbortController();
  t.use({ close: () => silence.abort() });
  let variables: Buffer | undefined;
  const onProgress: OperationContext['onProgress'] = ({ phase }) => {
    if (phase === 'starting the machine') variables = readFileSync(join(state, 'sessions', sessionOf(state), 'nvram'));
    if (phase.startsWith('waiting for the guest')) silence.abort();
  };
  const report = await appliance.failover({ name: 'web', at }, context({ signal: silence.signal, onProgress }));
  assert.ok(variables);
  return { planned: report.planned, point: report.point, variables };
}

function sessionOf(state: string): string {
  const [session = ''] = readdirSync(join(state, 'sessions'));
  return session;
}
