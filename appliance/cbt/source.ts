// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../block/block-device.ts';
import type { Extent, Range } from '../core/extents.ts';
import type { MachineId } from '../core/ids.ts';

/** How the blocks of a disk were found, and how far that can be trusted. */
export type TrackedKind = 'full' | 'incremental' | 'full-scan';

/** Told of what a tracker calls unchanged and the disk shows as zeroes: whoever has the base can tell whether it is true. */
export type UnchangedZeroWitness = (range: Range) => Promise<void>;

/** One disk of a source, frozen at the source's moment. */
export interface SourceDisk {
  /** The target name on the machine, unique in the source. */
  readonly name: string;
  /** Shows the disk's content at the source's moment until the source is disposed of. */
  readonly device: BlockDevice;
  readonly kind: TrackedKind;
  /** Why it is of this kind, as a sentence without a full stop. */
  readonly reason: string;
  /** What recognises the same disk at the next run. */
  readonly identity: Readonly<Record<string, string>>;
  /**
   * What may differ from the previous point (`incremental`), or everything (the other kinds), in order. What is dirty and
   * zero is an explicit zero: it overrides the base. The witness hears, where the source can tell, of everything that is
   * left out and zero: a disk that was shrunk and grown back has a clean bitmap and an end of zeroes.
   */
  changes(onUnchangedZero?: UnchangedZeroWitness): AsyncIterable<Extent>;
}

/** A file that belongs to the machine (its definition, its NVRAM). */
export interface SourceAttachment {
  readonly name: string;
  readonly bytes: Buffer;
}

/**
 * Everything that a backup reads, at one consistent moment for all disks.
 *
 * Two phases: the tracker's new position becomes the base of the next run only with `commit`, which is called after the
 * recovery point is durable. Disposing of a source without it takes the new position back.
 */
export interface BackupSource extends AsyncDisposable {
  readonly machine: { readonly id: MachineId; readonly name: string };
  /** The moment that the disks show, ms since the epoch. */
  readonly takenAtMs: number;
  readonly consistency: 'crash-consistent' | 'file-system-consistent';
  readonly disks: readonly SourceDisk[];
  readonly skipped: readonly { readonly name: string; readonly reason: string }[];
  readonly attachments: readonly SourceAttachment[];
  /** The position from which the next run can continue; stored in the recovery point. */
  readonly tracker: Readonly<Record<string, string>>;
  /** What the operator should know although the backup goes on. */
  readonly notices: readonly string[];
  /** Fails when the source died under the run (the machine stopped, the job ended): asked before the point is written. */
  assertAlive(): Promise<void>;
  /** Fails for nothing that the point does not depend on: it exists already. Such things are notices. */
  commit(): Promise<void>;
}

/** What a tracker may continue from: the newest point of the machine. */
export interface PreviousState {
  readonly tracker: Readonly<Record<string, string>>;
  readonly disks: readonly {
    readonly name: string;
    readonly sizeBytes: number;
    readonly identity: Readonly<Record<string, string>>;
  }[];
}
