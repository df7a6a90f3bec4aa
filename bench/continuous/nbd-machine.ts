// SPDX-License-Identifier: Apache-2.0
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import type { NbdDevice } from '../../appliance/nbd/client/nbd-device.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import type { MirrorTarget } from '../../appliance/protect/continuous/mirror-target.ts';
import type {
  MachineFacts,
  MachineWatch,
  Mirror,
  MirrorLine,
  MirrorLines,
  SessionDisk,
} from '../../appliance/protect/continuous/ports.ts';

/**
 * A machine of one disk without a hypervisor: what its guest writes goes through an NBD client and our server into the session's
 * target, as a mirror's writes do.
 */
export class NbdMachine implements MachineWatch, MirrorLines {
  readonly disk: SessionDisk;
  readonly #socketPath: string;
  #client: NbdDevice | undefined;

  constructor(disk: SessionDisk, socketPath: string) {
    this.disk = disk;
    this.#socketPath = socketPath;
  }

  /** The client of the mirror that was begun last. */
  get mirror(): NbdDevice | undefined {
    return this.#client;
  }

  facts(): Promise<MachineFacts> {
    return Promise.resolve({ power: 'running', reason: '', disks: [this.disk] });
  }

  onChange(): Disposable {
    return { [Symbol.dispose]: () => undefined };
  }

  endLeftovers(): Promise<void> {
    return Promise.resolve();
  }

  async open(targets: readonly MirrorTarget[]): Promise<MirrorLine> {
    const path = this.#socketPath;
    const server = await NbdServer.listen({ listen: { kind: 'unix', path } });
    for (const { name, device } of targets) server.addExport({ name, device });
    return {
      start: async ({ name }): Promise<Mirror> => {
        const client = await connectNbd({ kind: 'unix', path, exportName: name }, { connections: 1, reconnect: false });
        this.#client = client;
        return {
          state: 'ready',
          reason: '',
          wasTaken: false,
          seenMs: 0,
          onState: () => ({ [Symbol.dispose]: () => undefined }),
          end: () => client.close(),
        };
      },
      cut: () => void server.close({ deadlineMs: 0 }),
      [Symbol.asyncDispose]: () => server.close({ deadlineMs: 0 }),
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}
