// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';

/** A disk in the memory of this process, served over NBD: what a machine without a hypervisor looks like. */
export class DiskServer implements AsyncDisposable {
  readonly uri: string;
  readonly #server: NbdServer;
  readonly #device: BlockDevice;

  private constructor(uri: string, server: NbdServer, device: BlockDevice) {
    this.uri = uri;
    this.#server = server;
    this.#device = device;
  }

  static async start(socketPath: string, content: Buffer): Promise<DiskServer> {
    const device = memoryDevice({ sizeBytes: content.length });
    const server = await NbdServer.listen({ listen: { kind: 'unix', path: socketPath } });
    server.addExport({ name: 'disk', device });
    const disk = new DiskServer(`nbd+unix:///disk?socket=${socketPath}`, server, device);
    await disk.write(content);
    return disk;
  }

  /** Replaces what is there from `offset` on. */
  async write(content: Buffer, offset: number = 0): Promise<void> {
    await this.#device.write(offset, content);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
    await this.#device.close();
  }
}
