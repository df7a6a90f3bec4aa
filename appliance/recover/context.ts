// SPDX-License-Identifier: Apache-2.0
import type { Catalog } from '../catalog/catalog.ts';
import type { FreezeMarker } from '../cbt/quiesce.ts';
import type { Clock } from '../core/clock.ts';
import type { MachineId } from '../core/ids.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { NbdServer } from '../nbd/server/nbd-server.ts';
import type { Repository } from '../repository/repository.ts';
import type { JournalSource } from './state-disks.ts';

/** How far a long operation is. `done` and `total` are in `unit`; a total of 0 is not known yet. */
export interface RecoverProgress {
  readonly phase: string;
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'items';
}

/** How a caller follows and interrupts an operation. */
export interface RecoverContext {
  /** Once aborted, no further write starts; the operation settles with ABORTED when nothing of it runs any more. */
  readonly signal: AbortSignal;
  /** Must not throw. */
  readonly onProgress: (progress: RecoverProgress) => void;
  /** Things the operator should know although the operation goes on. */
  readonly onNotice: (sentence: string) => void;
}

/** What recovery works with. All of it is owned by whoever made it. */
export interface RecoverParts {
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly journals: JournalSource;
  /** Serves exports; on a unix socket that is nobody's but ours. */
  readonly nbd: NbdServer;
  readonly clock: Clock;
  /** Absolute and short: sockets of booted machines lie there. */
  readonly runtimeDirectory: string;
  /** Absolute. Write logs live in `sessions/` (booted machines) and `exports/` (thrown away at the end) beneath it. */
  readonly stateDirectory: string;
  /**
   * Opens a connection. `RecoverService` opens one for each URI, shares it, and closes it at its own end.
   * @throws ApplianceError LIBVIRT_UNAVAILABLE, LIBVIRT_CONNECT_FAILED, LIBVIRT_DENIED, TIMED_OUT
   */
  readonly connectLibvirt: (uri: string) => Promise<LibvirtConnection>;
  /** Where the freeze of a guest is noted before it happens, for whoever comes after a process that dies in it. */
  readonly freezeMarker: (guest: { readonly connectUri: string; readonly machine: MachineId }) => FreezeMarker;
  /** Hears, in sentences, what the operator should know that no operation is there to tell. */
  readonly onNotice?: (sentence: string) => void;
}
