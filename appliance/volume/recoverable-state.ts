// SPDX-License-Identifier: Apache-2.0
import type { Consistency, RecoveryPoint } from '../repository/manifest.ts';

/** A moment of a machine's journal, as somebody chose it. */
export interface JournalMoment {
  /** Of the log, as in `PointJournal`. */
  readonly logId: string;
  /** The state holds every record up to this one. */
  readonly sequence: number;
  /** Of that record, in microseconds since the Unix epoch. */
  readonly timeUs: number;
  readonly consistency: Consistency;
  /** The bookmark by which it was chosen. */
  readonly bookmark: string | null;
}

/**
 * What can be brought back: a recovery point, or a moment of the journal above one. The disks of a moment are those of the
 * point with the records between the two on top; definition, firmware variables and everything else are the point's.
 */
export interface RecoverableState {
  /** The recovery point, or the base of the moment: its `journal` names a place of the same log, not after the moment. */
  readonly point: RecoveryPoint;
  readonly moment?: JournalMoment;
}
