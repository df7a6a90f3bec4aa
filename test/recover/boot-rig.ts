// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { openFileDevice } from '../../appliance/block/file-device.ts';
import type { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { LibvirtConnection as Connection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { BootedMachines } from '../../appliance/recover/booted-machines.ts';
import type { RecoverParts } from '../../appliance/recover/context.ts';
import { PointUse } from '../../appliance/recover/point-use.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import type { TestContext } from '../support/test-scope.ts';
import { partsOf } from './fixture.ts';

export const MACHINE_ID = '5c1e5c1e-0000-4000-8000-00000000abcd';
const DISK_BYTES = 32 * 1024 * 1024;

/** One life of the service: from its start to its end. */
export interface Service extends AsyncDisposable {
  readonly fixture: FixtureRepository;
  readonly parts: RecoverParts;
  readonly use: PointUse;
  readonly machines: BootedMachines;
  /** Ends it as a crash would, as far as guests see: their connections break. */
  close(): Promise<void>;
}

/** A libvirt of its own, a point of a real guest, and a service that can be restarted. */
export interface BootRig {
  readonly libvirt: PrivateLibvirt;
  readonly connection: LibvirtConnection;
  readonly directory: string;
  readonly point: RecoveryPoint;
  readonly service: Service;
}

export async function startService(
  t: TestContext,
  directory: string,
  fixture: FixtureRepository,
  connection: LibvirtConnection,
): Promise<Service> {
  const nbd = await NbdServer.listen({ listen: { kind: 'unix', path: join(directory, 'nbd.sock') } });
  const parts: RecoverParts = { ...partsOf(directory, fixture, nbd), connectLibvirt: async () => connection };
  const use = new PointUse(fixture.repository);
  const machines = new BootedMachines(parts, use);
  await machines.load();
  const close = async (): Promise<void> => {
    await machines.close();
    await nbd.close();
    await fixture.close();
  };
  return t.use({ fixture, parts, use, machines, close, [Symbol.asyncDispose]: close });
}

export async function makeBootRig(t: TestContext): Promise<BootRig> {
  const directory = await t.tempDir();
  const libvirt = t.use(await PrivateLibvirt.start());
  const connection = t.use(await Connection.open(libvirt.uri));
  const fixture = await FixtureRepository.create(directory);
  const service = await startService(t, directory, fixture, connection);
  const path = join(directory, 'original.raw');
  await createDataDisk({ path, sizeBytes: DISK_BYTES, format: 'raw', files: { hello: 'from the point' } });
  const image = await guestImage();
  const definition = guestDomainXml({
    name: 'web',
    uuid: MACHINE_ID,
    image,
    acceleration: await probeAcceleration(image),
    disks: [{ path, format: 'raw', target: 'vda', serial: 'DATA-1' }],
    macAddress: '52:54:00:11:22:33',
  });
  await using source = await openFileDevice(path, 'read-only');
  const point = await fixture.addPoint({
    machine: { id: MACHINE_ID, name: 'web' },
    disks: { vda: source },
    attachments: { 'domain.xml': Buffer.from(definition) },
  });
  return { libvirt, connection, directory, point, service };
}

/** The guest's shell, when it answers. */
export async function shellOf(t: TestContext, domain: Domain): Promise<GuestConsole> {
  return t.use(await GuestConsole.of(domain));
}
