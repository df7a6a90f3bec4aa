// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import type { BlockDevice } from '../../block/block-device.ts';
import { invariant } from '../../core/invariant.ts';
import { readMachine } from '../../hypervisor/libvirt/read-machine.ts';
import { QemuNbd } from '../../hypervisor/qemu-nbd.ts';
import { connectNbd } from '../../nbd/client/connect.ts';
import type { PointDisk } from '../../repository/manifest.ts';
import type { RecoverParts } from '../context.ts';
import { checkDisk, checkIsOff, type InPlaceDisk } from '../in-place-target.ts';
import { removeTree } from '../point-exports.ts';
import type { Original } from './original.ts';

/**
 * The disks of a machine that is shut off, open for writing through `qemu-nbd`, which holds their locks: the machine
 * cannot be started meanwhile. Dirty bitmaps in the images see the writes.
 */
export class InPlaceDisks implements AsyncDisposable {
  readonly #resources: AsyncDisposableStack;
  readonly #devices: ReadonlyMap<string, BlockDevice>;

  private constructor(resources: AsyncDisposableStack, devices: ReadonlyMap<string, BlockDevice>) {
    this.#resources = resources;
    this.#devices = devices;
  }

  /**
   * Everything is checked before the first image is opened.
   * @throws ApplianceError DOMAIN_WRONG_STATE, DISK_NOT_FOUND, TARGET_CHANGED, TARGET_TOO_SMALL, NOT_SUPPORTED, TOOL_FAILED (in use)
   */
  static async open(parts: RecoverParts, original: Original, disks: readonly PointDisk[]): Promise<InPlaceDisks> {
    const found = await checkDisks(original, disks);
    await using resources = new AsyncDisposableStack();
    const devices = new Map<string, BlockDevice>();
    for (const target of found) devices.set(target.disk.name, await openDisk(parts, target, resources));
    return new InPlaceDisks(resources.move(), devices);
  }

  device(disk: string): BlockDevice {
    const device = this.#devices.get(disk);
    invariant(device !== undefined, 'every disk that was asked for is open');
    return device;
  }

  /** Ends the programs, after which the images are whole. Idempotent. */
  async close(): Promise<void> {
    await this.#resources.disposeAsync();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** What may be written of an original that is off. Errors as `InPlaceDisks.open`. */
export async function checkDisks(original: Original, disks: readonly PointDisk[]): Promise<InPlaceDisk[]> {
  await checkIsOff(original.domain);
  const machine = await readMachine(original.connection, original.domain);
  const found: InPlaceDisk[] = [];
  for (const disk of disks) found.push(await checkDisk(disk, machine));
  return found;
}

async function openDisk(
  parts: RecoverParts,
  { path, format }: InPlaceDisk,
  resources: AsyncDisposableStack,
): Promise<BlockDevice> {
  const { address } = parts.nbd;
  const directory = address.kind === 'unix' ? dirname(address.path) : parts.stateDirectory;
  const socketPath = join(directory, `${randomBytes(4).toString('hex')}.sock`);
  resources.defer(() => removeTree(socketPath));
  resources.use(await QemuNbd.start({ path, format, socketPath, exportName: 'target', isWritable: true }));
  const uri = `nbd+unix:///target?socket=${encodeURIComponent(socketPath)}`;
  return resources.use(await connectNbd(uri, { reconnect: false }));
}
