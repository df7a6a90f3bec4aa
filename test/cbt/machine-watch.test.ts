// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import type { MachineFact } from '../../appliance/cbt/machine-facts.ts';
import { MachineWatch } from '../../appliance/cbt/machine-watch.ts';
import { ConnectionCache } from '../../appliance/hypervisor/libvirt/connection-cache.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { mirrorDestinationXml } from '../../appliance/hypervisor/libvirt/mirror-xml.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { runTool } from '../../appliance/hypervisor/tool.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import {
  definePlainMachine,
  GUEST_REQUIREMENTS,
  type LibvirtRig,
  startGuest,
  startLibvirt,
} from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('machine watch', { requires: [...GUEST_REQUIREMENTS, 'virsh'], timeoutMs: 90_000 });

const libvirt = test.share((t) => startLibvirt(t));
const guest = test.share(async (t) => startGuest(t, await libvirt()));
const SIZE_BYTES = 16 * 1024 * 1024;

/** The facts of a machine, in their order. */
class Facts {
  readonly watch: MachineWatch;
  readonly all: MachineFact[] = [];

  constructor(watch: MachineWatch) {
    this.watch = watch;
    watch.onFact((fact) => this.all.push(fact));
  }

  get kinds(): string[] {
    return this.all.map(({ kind }) => kind);
  }

  /** Waits until a fact of that kind has come and takes everything up to it. */
  async until(kind: MachineFact['kind']): Promise<MachineFact[]> {
    while (!this.kinds.includes(kind)) await delay(10);
    return this.all.splice(0, this.kinds.indexOf(kind) + 1);
  }
}

async function watchMachine(t: TestContext, rig: LibvirtRig, uuid: string, pollMs = 100): Promise<Facts> {
  const cache = t.use(new ConnectionCache());
  const watch = t.use(await MachineWatch.open({ connect: () => cache.get(rig.libvirt.uri), uuid, pollMs }));
  return new Facts(watch);
}

let machines = 0;

async function plainMachine(rig: LibvirtRig): Promise<Domain> {
  return definePlainMachine(rig, `machine-${++machines}`);
}

async function virsh(rig: LibvirtRig, ...args: string[]): Promise<void> {
  await runTool('virsh', ['-c', rig.libvirt.uri, ...args]);
}

test('a machine that starts, pauses, goes on, and is switched off is told so, each once', async (t) => {
  const rig = await libvirt();
  const domain = await plainMachine(rig);
  const facts = await watchMachine(t, rig, domain.uuid);
  assert.deepEqual(await facts.watch.facts(), {
    power: 'off',
    reason: 'the machine is shut off',
    disks: [
      {
        name: 'vda',
        sizeBytes: SIZE_BYTES,
        identity: { source: `file:${join(rig.libvirt.directory, `${domain.name}-vda.qcow2`)}`, format: 'qcow2' },
      },
    ],
  });
  await domain.start();
  assert.deepEqual(await facts.until('started'), [{ kind: 'started', detail: 'booted' }]);
  assert.equal((await facts.watch.facts()).power, 'running');
  await domain.suspend();
  assert.deepEqual(await facts.until('paused'), [{ kind: 'paused', detail: 'paused' }]);
  assert.equal((await facts.watch.facts()).power, 'running');
  await domain.resume();
  assert.deepEqual(await facts.until('resumed'), [{ kind: 'resumed', detail: 'unpaused' }]);
  await domain.destroy();
  assert.deepEqual(await facts.until('shut-off'), [{ kind: 'shut-off', detail: 'destroyed' }]);
  const { power, reason } = await facts.watch.facts();
  assert.deepEqual({ power, reason }, { power: 'off', reason: 'the machine was switched off' });
  await domain.undefine();
  assert.deepEqual(await facts.until('undefined'), [{ kind: 'undefined' }]);
  const gone = await facts.watch.facts();
  assert.deepEqual([gone.power, gone.disks], ['off', []]);
  assert.match(gone.reason, /not defined any more.*where it was migrated to/);
  assert.deepEqual(facts.kinds, []);
});

test('a guest that is reset has been rebooted', async (t) => {
  const rig = await libvirt();
  const domain = await plainMachine(rig);
  await domain.start();
  const facts = await watchMachine(t, rig, domain.uuid);
  await virsh(rig, 'reset', domain.name);
  assert.deepEqual(await facts.until('rebooted'), [{ kind: 'rebooted' }]);
  assert.equal((await facts.watch.facts()).power, 'running');
});

test('a machine that is migrated to another host is told so', async (t) => {
  const rig = await libvirt();
  const other = await startLibvirt(t);
  const domain = await plainMachine(rig);
  await domain.start();
  const facts = await watchMachine(t, rig, domain.uuid);
  await virsh(rig, 'migrate', domain.name, other.libvirt.uri, 'tcp://127.0.0.1', '--live', '--unsafe');
  const kinds = (await facts.until('migrated-away')).map(({ kind }) => kind);
  assert.deepEqual(kinds, ['paused', 'migrated-away']);
  assert.match((await facts.watch.facts()).reason, /^the machine was migrated to another host;/);
});

test('a machine whose QEMU dies has crashed', async (t) => {
  const rig = await libvirt();
  const domain = await plainMachine(rig);
  await domain.start();
  const facts = await watchMachine(t, rig, domain.uuid);
  const pid = await rig.libvirt.qemuPid(domain.name);
  assert.ok(pid);
  process.kill(pid, 'SIGKILL');
  assert.deepEqual(await facts.until('crashed'), [{ kind: 'crashed', detail: 'failed' }]);
  assert.equal((await facts.watch.facts()).power, 'off');
});

test('disks that come, grow and go', async (t) => {
  const rig = await libvirt();
  const { domain } = await guest();
  const facts = await watchMachine(t, rig, domain.uuid);
  const path = join(rig.libvirt.directory, 'more.raw');
  await createImage({ location: path, format: 'raw' }, { sizeBytes: SIZE_BYTES });
  const xml = `<disk type="file"><driver name="qemu" type="raw"/><source file="${path}"/><target dev="vdb" bus="virtio"/></disk>`;
  await domain.changeDevice({ change: 'attach', xml, affects: ['live'] });
  assert.deepEqual(await facts.until('disk-added'), [{ kind: 'disk-added', disk: 'vdb' }]);
  await domain.blockResize('vdb', 2 * SIZE_BYTES);
  assert.deepEqual(await facts.until('disk-resized'), [
    { kind: 'disk-resized', disk: 'vdb', beforeBytes: SIZE_BYTES, sizeBytes: 2 * SIZE_BYTES },
  ]);
  assert.deepEqual(
    (await facts.watch.facts()).disks.map(({ name }) => name),
    ['vda', 'vdb'],
  );
  await domain.changeDevice({ change: 'detach', xml, affects: ['live'] });
  assert.deepEqual(await facts.until('disk-removed'), [{ kind: 'disk-removed', disk: 'vdb' }]);
});

// The last with the guest.
test('a guest that shuts itself down is told when its QEMU is gone', async (t) => {
  const rig = await libvirt();
  const { domain } = await guest();
  const facts = await watchMachine(t, rig, domain.uuid);
  await domain.shutdown();
  assert.deepEqual(await facts.until('shut-off'), [{ kind: 'shut-off', detail: 'shutdown' }]);
});

test('a snapshot of somebody else is told with the image that the guest writes to now', async (t) => {
  const rig = await libvirt();
  const domain = await plainMachine(rig);
  await domain.start();
  const facts = await watchMachine(t, rig, domain.uuid);
  const overlay = join(rig.libvirt.directory, 'overlay.qcow2');
  await virsh(rig, 'snapshot-create-as', domain.name, 's1', '--disk-only', '--diskspec', `vda,file=${overlay}`);
  assert.deepEqual(await facts.until('snapshot-made'), [
    { kind: 'snapshot-made', disk: 'vda', source: `file:${overlay}` },
  ]);
});

test('a machine that is taken back to a snapshot was reverted', async (t) => {
  const rig = await libvirt();
  const domain = await plainMachine(rig);
  await domain.start();
  await virsh(rig, 'snapshot-create-as', domain.name, 's1');
  const facts = await watchMachine(t, rig, domain.uuid);
  await virsh(rig, 'snapshot-revert', domain.name, 's1');
  assert.equal((await facts.until('reverted')).at(-1)?.kind, 'reverted');
});

test('jobs on disks are told, whosever they are', async (t) => {
  const rig = await libvirt();
  const domain = await plainMachine(rig);
  await domain.start();
  const facts = await watchMachine(t, rig, domain.uuid);
  const socketPath = join(rig.libvirt.directory, 't.sock');
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: socketPath } }));
  server.addExport({ name: 'vda', device: memoryDevice({ sizeBytes: SIZE_BYTES }) });
  const destinationXml = mirrorDestinationXml({ place: { kind: 'unix', socketPath }, exportName: 'vda' });
  await domain.blockCopy({ disk: 'vda', destinationXml, reusesDestination: true, isTransient: true });
  const ready = await facts.until('job-ready');
  assert.deepEqual(ready.at(-1), { kind: 'job-ready', disk: 'vda', job: 'copy' });
  await domain.abortBlockJob('vda');
  const ended = await facts.until('job-ended');
  assert.deepEqual(ended.at(-1), { kind: 'job-ended', disk: 'vda', how: 'cancelled' });
});

test('what happens while libvirtd is away is told when it is back', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await plainMachine(rig);
  await domain.start();
  const facts = await watchMachine(t, rig, domain.uuid);
  await rig.libvirt.killDaemon();
  await facts.until('connection-lost');
  assert.equal(facts.watch.isConnected, false);
  await rejectsWith(facts.watch.facts(), 'LIBVIRT_CONNECT_FAILED');
  await rig.libvirt.startDaemon();
  assert.deepEqual(await facts.until('connection-back'), [{ kind: 'connection-back' }]);
  assert.equal(facts.watch.isConnected, true);
  await rig.libvirt.killDaemon();
  await facts.until('connection-lost');
  for (const pid of await rig.libvirt.qemuPids()) process.kill(pid, 'SIGKILL');
  await rig.libvirt.startDaemon();
  const kinds = (await facts.until('connection-back')).map(({ kind }) => kind);
  assert.deepEqual(kinds, ['crashed', 'connection-back']);
});

test('a machine that was started anew while nobody looked has been off', async (t) => {
  const rig = await libvirt();
  const domain = await plainMachine(rig);
  await domain.start();
  const facts = await watchMachine(t, rig, domain.uuid, 60_000);
  const before = (await facts.watch.look()).runId;
  assert.notEqual(before, undefined);
  await domain.destroy();
  await domain.start();
  await facts.until('started');
  assert.notEqual((await facts.watch.look()).runId, before);
});

test('a libvirt that cannot be reached is waited for', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await plainMachine(rig);
  await rig.libvirt.killDaemon();
  const facts = await watchMachine(t, rig, domain.uuid);
  assert.equal(facts.watch.isConnected, false);
  await rig.libvirt.startDaemon();
  assert.deepEqual(await facts.until('connection-back'), [{ kind: 'connection-back' }]);
  assert.equal((await facts.watch.facts()).power, 'off');
});
