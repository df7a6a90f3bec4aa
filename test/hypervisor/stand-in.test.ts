// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readMarker } from '../../appliance/hypervisor/libvirt/domain-marker.ts';
import { rewriteDomain } from '../../appliance/hypervisor/libvirt/domain-rewrite.ts';
import { readHostFacts } from '../../appliance/hypervisor/libvirt/host-facts.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { GuestConsole } from '../../lab/guest-console.ts';
import { GUEST_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('stand-in machines', { requires: [...GUEST_REQUIREMENTS, 'qemu-nbd'], timeoutMs: 120_000 });

test('a machine defined from a saved definition boots from an NBD export beside its original', async (t) => {
  const rig = await startLibvirt(t);
  const image = await guestImage();
  const acceleration = await probeAcceleration(image);
  const diskPath = join(rig.libvirt.directory, 'original.qcow2');
  await createDataDisk({ path: diskPath, sizeBytes: 32 * 1024 * 1024, format: 'qcow2', files: { hello: 'world' } });
  const original = await rig.connection.define(
    guestDomainXml({
      name: 'original',
      image,
      acceleration,
      disks: [{ path: diskPath, format: 'qcow2', target: 'vda', serial: 'UNDERSTUDY-1' }],
      macAddress: '52:54:00:12:34:56',
      consoleLogPath: join(rig.libvirt.directory, 'console.log'),
      extraDevices:
        '<disk type="file" device="cdrom"><source file="/absent.iso"/><target dev="sda" bus="sata"/></disk>',
    }),
  );
  const socketPath = join(rig.libvirt.directory, 'nbd.sock');
  t.use(await serveNbd(t, { diskPath, socketPath, exportName: 'p1' }));
  const definition = await original.xml({ isSecure: true, isInactive: true, isMigratable: true });
  const uuid = randomUUID();
  const { xml, changes } = rewriteDomain(
    definition,
    {
      name: 'stand-in',
      uuid,
      keepsMacAddresses: false,
      keepsNetwork: false,
      disks: { vda: { kind: 'nbd', socketPath, exportName: 'p1', reconnectSeconds: 10 } },
      marker: { purpose: 'boot', point: 'p1', machine: original.uuid, owner: 'r1' },
    },
    await readHostFacts(rig.connection),
  );
  assert.ok(changes.includes('The CD drive sda is empty: /absent.iso is not on this host.'));
  const domain = await rig.connection.define(xml);
  assert.equal(domain.uuid, uuid);
  assert.equal(readMarker(await domain.xml())?.machine, original.uuid);
  await domain.start();
  const console = t.use(await GuestConsole.of(domain));
  assert.equal(await console.expect('cat /data/hello /sys/block/vda/serial'), 'worldUNDERSTUDY-1');
  await console.expect('echo new > /data/new; sync');
  await domain.destroy();
});

test('a definition goes through the rewriting and libvirt as often as one likes', async (t) => {
  const rig = await startLibvirt(t);
  const image = await guestImage();
  const disks = [{ path: '/absent/a.qcow2', format: 'qcow2', target: 'vda' }] as const;
  const first = await rig.connection.define(guestDomainXml({ name: 'first', image, acceleration: 'tcg', disks }));
  const host = await readHostFacts(rig.connection);
  const plan = {
    keepsMacAddresses: false,
    keepsNetwork: false,
    disks: { vda: { kind: 'file', path: '/absent/b.qcow2', format: 'qcow2' } },
    marker: { purpose: 'restore', point: 'p', machine: first.uuid, owner: 'r' },
  } as const;
  const xml = await first.xml({ isInactive: true });
  const second = await rig.connection.define(rewriteDomain(xml, { ...plan, name: 'a', uuid: randomUUID() }, host).xml);
  const again = rewriteDomain(await second.xml({ isInactive: true }), { ...plan, name: 'b', uuid: randomUUID() }, host);
  await rig.connection.define(again.xml);
  assert.equal((await rig.connection.domains()).length, 3);
});

/** qemu-nbd on a unix socket, ended with the test. */
async function serveNbd(
  t: TestContext,
  { diskPath, socketPath, exportName }: { diskPath: string; socketPath: string; exportName: string },
): Promise<{ close: () => Promise<void> }> {
  const server: ChildProcess = spawn('qemu-nbd', ['-f', 'qcow2', '-t', '-k', socketPath, '-x', exportName, diskPath]);
  const exited = new Promise((resolve) => server.once('exit', resolve));
  while (!existsSync(socketPath) && server.exitCode === null) {
    t.signal.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    close: async () => {
      server.kill();
      await exited;
    },
  };
}
