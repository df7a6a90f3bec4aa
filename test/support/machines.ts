// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { createDataDisk, type GuestImage, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import type { TestContext } from './test-scope.ts';

/** Programs that a test with a libvirt of its own needs. */
export const LIBVIRT_REQUIREMENTS: readonly string[] = ['libvirtd', 'qemu-system-x86_64', 'qemu-img'];
/** Programs that a test with a guest needs; its kernel is downloaded once. */
export const GUEST_REQUIREMENTS: readonly string[] = [...LIBVIRT_REQUIREMENTS, 'busybox', 'mke2fs', 'dpkg', 'apt-get'];

/** A libvirt daemon for one test and a connection to it. */
export interface LibvirtRig {
  readonly libvirt: PrivateLibvirt;
  readonly connection: LibvirtConnection;
}

export async function startLibvirt(t: TestContext): Promise<LibvirtRig> {
  const libvirt = t.use(await PrivateLibvirt.start());
  const connection = t.use(await LibvirtConnection.open(libvirt.uri));
  return { libvirt, connection };
}

/** As Debian's `qemu:///system`; see `systemLayout`. Only where `systemLibvirtObstacle` has nothing to say. */
export async function startSystemLibvirt(t: TestContext): Promise<LibvirtRig> {
  const libvirt = t.use(await PrivateLibvirt.start({ isSystem: true }));
  const connection = t.use(await LibvirtConnection.open(libvirt.uri));
  return { libvirt, connection };
}

export interface PlainDisk {
  readonly target: string;
  readonly format?: 'qcow2' | 'raw';
  readonly sizeBytes?: number;
  readonly options?: Readonly<Record<string, string>>;
}

const DEFAULT_SIZE_BYTES = 16 * 1024 * 1024;

/** A machine with disks and no operating system: QEMU runs, nothing boots, and it is up in a quarter of a second. */
export async function definePlainMachine(
  { libvirt, connection }: LibvirtRig,
  name: string,
  disks: readonly PlainDisk[] = [{ target: 'vda' }],
): Promise<Domain> {
  const devices: string[] = [];
  for (const disk of disks) {
    const format = disk.format ?? 'qcow2';
    const location = join(libvirt.directory, `${name}-${disk.target}.${format}`);
    await createImage(
      { location, format },
      {
        sizeBytes: disk.sizeBytes ?? DEFAULT_SIZE_BYTES,
        ...(disk.options === undefined ? {} : { options: disk.options }),
      },
    );
    devices.push(
      `<disk type="file" device="disk"><driver name="qemu" type="${format}" discard="unmap"/><source file="${location}"/>` +
        `<target dev="${disk.target}" bus="virtio"/></disk>`,
    );
  }
  return await connection.define(
    `<domain type="qemu"><name>${name}</name><uuid>${randomUUID()}</uuid><memory unit="MiB">64</memory>` +
      `<os><type arch="x86_64" machine="pc">hvm</type></os><devices>${devices.join('')}` +
      `<controller type="usb" model="none"/><memballoon model="none"/></devices></domain>`,
  );
}

export interface RunningGuest {
  readonly domain: Domain;
  readonly console: GuestConsole;
  /** The qcow2 image of its data disk `vda`. */
  readonly diskPath: string;
}

/** The small guest with a 64 MiB ext4 disk at `/data`, up and answering; with QEMU's agent, if there is one, unless told otherwise. */
export async function startGuest(
  t: TestContext,
  rig: LibvirtRig,
  name: string = 'guest',
  { hasAgent = true }: { readonly hasAgent?: boolean } = {},
): Promise<RunningGuest> {
  const found = await guestImage();
  const shared = { ...found, hasAgent: found.hasAgent && hasAgent };
  const acceleration = rig.libvirt.isSystem ? 'tcg' : await probeAcceleration(shared);
  // Files change hands under a daemon of the system, and QEMU of another user may not get as far as the shared ones.
  const image = rig.libvirt.isSystem ? await copyImage(shared, rig.libvirt.directory) : shared;
  const diskPath = join(rig.libvirt.directory, `${name}.qcow2`);
  await createDataDisk({ path: diskPath, sizeBytes: 64 * 1024 * 1024, format: 'qcow2', files: { hello: 'world' } });
  const disks = [{ path: diskPath, format: 'qcow2', target: 'vda', serial: 'UNDERSTUDY-1' }] as const;
  const domain = await rig.connection.define(guestDomainXml({ name, image, acceleration, disks }));
  await domain.start();
  return { domain, console: await consoleOf(t, rig.libvirt, domain), diskPath };
}

/** The shell of a guest that runs, when it answers. */
export async function consoleOf(t: TestContext, libvirt: PrivateLibvirt, domain: Domain): Promise<GuestConsole> {
  return t.use(await GuestConsole.of(domain, { outside: (path) => libvirt.outside(path) }));
}

async function copyImage(image: GuestImage, directory: string): Promise<GuestImage> {
  const [kernelPath, initrdPath] = [join(directory, 'kernel'), join(directory, 'initrd')];
  await copyFile(image.kernelPath, kernelPath);
  await copyFile(image.initrdPath, initrdPath);
  return { ...image, kernelPath, initrdPath };
}
