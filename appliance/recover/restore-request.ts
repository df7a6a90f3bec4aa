// SPDX-License-Identifier: Apache-2.0

import type { JournalMoment, RecoverableState } from '../volume/recoverable-state.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import type { StateDisks } from './state-disks.ts';

/** Formats that a disk can be restored to; `qcow2` and `vmdk` are written by qemu-img. */
export type RestoreFormat = 'raw' | 'qcow2' | 'vmdk';

export interface RestoreRequest extends RecoverableState {
  /** Can be left out when the point has only one. */
  readonly disk?: string;
  /** A file, a block device, or an NBD URI. */
  readonly to?: string;
  readonly format?: RestoreFormat;
  /** Define a new machine of this name, its disks in `directory` or beside the originals. */
  readonly as?: string;
  readonly directory?: string;
  /** Put the state's content into the original machine's disks. */
  readonly inPlace?: boolean;
  /** The libvirt URI for whole machines. */
  readonly connect: string;
}

export interface RestoredTarget {
  readonly disk: string;
  readonly to: string;
  /** Of the disk. */
  readonly sizeBytes: number;
  /** Data that was written; zeroes that the target had anyway are not. */
  readonly writtenBytes: number;
}

export interface RestoreReport {
  readonly point: string;
  /** Null for the recovery point itself. */
  readonly moment: JournalMoment | null;
  readonly targets: readonly RestoredTarget[];
  /** Name of the machine that was defined or restored; null for a single disk. */
  readonly machine: string | null;
  readonly durationMs: number;
  /** Sentences: what is not as it was. */
  readonly changes: readonly string[];
}

/** What one kind of restore answers with. */
export type RestoreOutcome = Omit<RestoreReport, 'point' | 'moment' | 'durationMs'>;

/** What the kinds of restore work with. */
export interface Restore<Request extends RestoreRequest = RestoreRequest> {
  readonly parts: RecoverParts;
  /** Those of the request's state, open. */
  readonly disks: StateDisks;
  readonly request: Request;
  readonly context: RecoverContext;
}
