// SPDX-License-Identifier: Apache-2.0
import type { Consistency, PointKind } from '../repository/manifest.ts';

/** What can be asked about the journals of machines under continuous protection. Times of moments have microseconds. */

/** A moment of a journal: the state after one of its records. */
export interface MomentReport {
  /** Of that record. */
  readonly sequence: number;
  readonly time: string;
  readonly consistency: Consistency;
  /** The bookmark that names it, or null. */
  readonly bookmark: string | null;
}

/** Where a moment stands among the recovery points of its machine. */
export interface MomentDetails extends MomentReport {
  /** Of the log that it is of; 32 hexadecimal digits. */
  readonly logId: string;
  /** Records and microseconds that lie between the recovery point beneath and the moment. */
  readonly recordsAbovePoint: number;
  readonly microsecondsAbovePoint: number;
  /** The recovery point whose time is nearest, and how much later than the moment it is, in milliseconds. */
  readonly nearestPoint: string;
  readonly nearestPointLaterMs: number;
}

export interface TimelineParams {
  /** A machine's name or id. */
  readonly machine: string;
  /** Times as in `NAME@TIME`; by default everything that can be recovered. */
  readonly from?: string;
  readonly to?: string;
}

/** An unbroken part of a journal. */
export interface StretchReport {
  /** `writes`: every moment can be recovered. `interval`: the moments in it that were marked. */
  readonly kind: 'writes' | 'interval';
  readonly begin: { readonly sequence: number; readonly time: string };
  readonly end: { readonly sequence: number; readonly time: string };
  /** It goes on; `end` is the newest moment so far. */
  readonly open: boolean;
  readonly endReason: string | null;
}

/** A time between two stretches, or behind the last: no moment of it can be recovered. */
export interface GapReport {
  readonly begin: string;
  /** Null for a gap that lasts. */
  readonly end: string | null;
  readonly reason: string | null;
}

/** What was written in a part of the time, gaps included. */
export interface WriteBucket {
  readonly time: string;
  readonly writes: number;
  readonly bytes: number;
}

export interface TimelineReport {
  readonly machine: string;
  readonly machineId: string;
  readonly from: string;
  readonly to: string;
  readonly points: readonly {
    readonly id: string;
    readonly time: string;
    readonly kind: PointKind;
    readonly consistency: Consistency;
    /** Its place in the journal; null for a point that is not of it. */
    readonly sequence: number | null;
  }[];
  readonly bookmarks: readonly (Omit<MomentReport, 'bookmark'> & { readonly name: string })[];
  readonly stretches: readonly StretchReport[];
  readonly gaps: readonly GapReport[];
  /** Of equal length, from `from` on, without a gap between them. */
  readonly buckets: readonly WriteBucket[];
  readonly bucketMicroseconds: number;
}

export interface WritesParams {
  readonly machine: string;
  /** A moment, as in `NAME@MOMENT`: a time, `bookmark:…`, `seq:…`. Without it, all of the journal for an `offset`. */
  readonly around?: string;
  /** So far on both sides: `10s`, `500ms`, `2min`. Default 10 s. */
  readonly within?: string;
  readonly disk?: string;
  /** A byte of the disk: only changes that cover it. Decimal, or with KiB, MiB, GiB. */
  readonly offset?: string;
}

/** One change of one disk. */
export interface WriteReport {
  readonly sequence: number;
  readonly time: string;
  readonly disk: string;
  readonly offset: number;
  readonly length: number;
  /** `zero` and `trim` read as zeroes. */
  readonly kind: 'write' | 'zero' | 'trim';
  /** The state after it can be recovered. */
  readonly recoverable: boolean;
}

export interface WritesReport {
  readonly machine: string;
  readonly machineId: string;
  readonly around: string;
  readonly from: string;
  readonly to: string;
  /** Oldest first. */
  readonly writes: readonly WriteReport[];
  /** There were more; those nearest to the moment are listed. */
  readonly truncated: boolean;
}

export interface BookmarkParams {
  readonly machine: string;
  readonly name: string;
}

export interface BookmarkReport extends MomentReport {
  readonly machine: string;
  readonly machineId: string;
  readonly bookmark: string;
  /** Sentences: what did not work, of freezing above all. */
  readonly notices: readonly string[];
}

export interface RewindReport {
  readonly name: string;
  readonly machineId: string;
  /** The recovery point that its disks begin with now. */
  readonly point: string;
  /** What it was rewound to: a moment, or null for the recovery point `target` itself. */
  readonly moment: MomentReport | null;
  readonly target: string;
  /** The name of the last moment before: rewinding to it undoes this. */
  readonly bookmark: string;
  /** A recovery point of that moment. */
  readonly pointBefore: string;
  /** From the end of the machine to its start. */
  readonly downMs: number;
  readonly durationMs: number;
}
