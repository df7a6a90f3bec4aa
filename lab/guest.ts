// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { GuestImage } from './guest-image.ts';
import { DATA_DIRECTORY, SHELL_PORT, UP_MARKER } from './guest-init.ts';
import { run } from './run.ts';

export type { GuestImage } from './guest-image.ts';
export { guestImage } from './guest-image.ts';
export { DATA_DIRECTORY, SHELL_PORT, UP_MARKER };

export interface GuestDisk {
  readonly path: string;
  readonly format: 'qcow2' | 'raw';
  /** `vda`, `vdb`, … */
  readonly target: string;
  readonly serial?: string;
}

export interface GuestDefinition {
  readonly name: string;
  readonly image: GuestImage;
  readonly disks: readonly GuestDisk[];
  /** `kvm` or `tcg`, from `probeAcceleration`. */
  readonly acceleration: Acceleration;
  readonly uuid?: string;
  readonly memoryMiB?: number;
  /** With a network card in QEMU's user network; none by default. */
  readonly macAddress?: string;
  /** File that takes the serial console. */
  readonly consoleLogPath?: string;
  /** More kernel arguments, for example `understudy.data=no`. */
  readonly kernelArguments?: string;
  /**
   * Whether a `GuestConsole` can connect; it can by default. While none does, the guest opens the port ten times a second, and
   * libvirt 9.0 holds up its events, the end of a backup among them, for 30 s each when that happens during a backup.
   */
  readonly hasShell?: boolean;
  /**
   * Whether a reset, the guest's or the hypervisor's, starts it again. By default it ends the guest, so that one that panics, and
   * resets at once, does not go on for ever.
   */
  readonly restartsOnReset?: boolean;
  /** XML put among the devices as it is. */
  readonly extraDevices?: string;
}

export type Acceleration = 'kvm' | 'tcg';

const DEFAULT_MEMORY_MIB = 192;
const PROBE_TIMEOUT_MS = 20_000;

/** The guest as a libvirt domain: first disk mounted at `/data`, a shell on a virtio-serial port, QEMU's agent if there is one. */
export function guestDomainXml(guest: GuestDefinition): string {
  const { image, acceleration } = guest;
  const uuid = guest.uuid === undefined ? '' : `<uuid>${guest.uuid}</uuid>`;
  const console =
    guest.consoleLogPath === undefined
      ? '<serial type="null"/>'
      : `<serial type="file"><source path="${escapeXml(guest.consoleLogPath)}"/></serial>`;
  const agent = image.hasAgent
    ? '<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>'
    : '';
  const network =
    guest.macAddress === undefined
      ? ''
      : `<interface type="user"><mac address="${guest.macAddress}"/><model type="virtio"/></interface>`;
  const shell =
    guest.hasShell === false ? '' : `<channel type="unix"><target type="virtio" name="${SHELL_PORT}"/></channel>`;
  return `<domain type="${acceleration === 'kvm' ? 'kvm' : 'qemu'}">
  <name>${escapeXml(guest.name)}</name>${uuid}
  <memory unit="MiB">${guest.memoryMiB ?? DEFAULT_MEMORY_MIB}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <kernel>${escapeXml(image.kernelPath)}</kernel>
    <initrd>${escapeXml(image.initrdPath)}</initrd>
    <cmdline>${escapeXml(kernelCommandLine(guest.kernelArguments))}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>${guest.restartsOnReset === true ? 'restart' : 'destroy'}</on_reboot>
  <devices>
    ${guest.disks.map(diskXml).join('\n    ')}
    <controller type="usb" model="none"/>
    ${network}
    ${console}
    ${shell}
    ${agent}
    <memballoon model="none"/>
    ${guest.extraDevices ?? ''}
  </devices>
</domain>
`;
}

/** The host's socket of the guest's shell, from the XML of the running domain. */
export function shellSocketPath(liveXml: string): string | undefined {
  for (const channel of liveXml.match(/<channel [\s\S]*?<\/channel>/g) ?? []) {
    if (!channel.includes(`name='${SHELL_PORT}'`)) continue;
    return /<source mode='bind' path='([^']+)'/.exec(channel)?.[1];
  }
  return undefined;
}

/** A raw or qcow2 disk with an ext4 file system that holds the given files. */
export async function createDataDisk(disk: {
  readonly path: string;
  readonly sizeBytes: number;
  readonly format: 'qcow2' | 'raw';
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
}): Promise<void> {
  const content = `${disk.path}.content`;
  const raw = disk.format === 'raw' ? disk.path : `${disk.path}.raw`;
  await mkdir(content, { recursive: true });
  try {
    for (const [name, bytes] of Object.entries(disk.files ?? {})) await writeFile(join(content, name), bytes);
    await writeFile(raw, '');
    await truncate(raw, disk.sizeBytes);
    await run('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '4096', '-L', 'data', '-d', content, raw]);
    if (raw !== disk.path) await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, disk.path]);
  } finally {
    await rm(content, { recursive: true, force: true });
    if (raw !== disk.path) await rm(raw, { force: true });
  }
}

/** Whether KVM boots this guest here; the device file alone says little. Kept until the host reboots. */
export async function probeAcceleration(image: GuestImage): Promise<Acceleration> {
  if (!existsSync('/dev/kvm')) return 'tcg';
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const cachePath = join(image.kernelPath, '..', `acceleration-${bootId}`);
  if (existsSync(cachePath)) return (await readFile(cachePath, 'utf8')) === 'kvm' ? 'kvm' : 'tcg';
  const acceleration = (await bootsUnderKvm(image)) ? 'kvm' : 'tcg';
  await writeFile(cachePath, acceleration);
  return acceleration;
}

async function bootsUnderKvm(image: GuestImage): Promise<boolean> {
  const fixed = '-accel kvm -cpu host -machine q35 -m 192 -nodefaults -no-reboot -display none -serial stdio'.split(
    ' ',
  );
  const kernel = ['-kernel', image.kernelPath, '-initrd', image.initrdPath];
  const args = [...fixed, ...kernel, '-append', kernelCommandLine('understudy.once')];
  return await new Promise((resolve) => {
    let output = '';
    const qemu = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'ignore'] });
    const timer = setTimeout(() => qemu.kill('SIGKILL'), PROBE_TIMEOUT_MS);
    qemu.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString('latin1');
    });
    qemu.on('error', () => {
      resolve(false);
    });
    qemu.on('close', () => {
      clearTimeout(timer);
      resolve(output.includes(UP_MARKER));
    });
  });
}

function kernelCommandLine(more: string | undefined): string {
  return ['console=ttyS0 quiet loglevel=3 panic=-1 tsc=unstable', more].filter((part) => part !== undefined).join(' ');
}

function diskXml(disk: GuestDisk): string {
  const serial = disk.serial === undefined ? '' : `<serial>${escapeXml(disk.serial)}</serial>`;
  return (
    `<disk type="file" device="disk"><driver name="qemu" type="${disk.format}" discard="unmap"/>` +
    `<source file="${escapeXml(disk.path)}"/><target dev="${disk.target}" bus="virtio"/>${serial}</disk>`
  );
}

function escapeXml(text: string): string {
  return text.replace(/[<>&"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
