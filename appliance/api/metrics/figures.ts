// SPDX-License-Identifier: Apache-2.0

/** What the appliance tells of itself in numbers, at one moment. */
export interface Figures {
  readonly machines: readonly MachineFigures[];
  readonly repository: {
    readonly points: number;
    readonly logicalBytes: number;
    readonly uniqueBytes: number;
    readonly storedBytes: number;
    readonly freeBytes: number;
    readonly totalBytes: number;
    readonly growthBytesPerDay: number | null;
    readonly daysUntilFull: number | null;
    readonly findings: number;
  };
  /** By chore: when it last ended, in ms since the Unix epoch, and how often it failed since its last success. */
  readonly chores: Readonly<Record<string, { readonly lastMs: number | null; readonly failures: number }>>;
  readonly nbd: NbdFigures;
}

/** A machine that has recovery points or is under continuous protection. */
export interface MachineFigures {
  readonly id: string;
  readonly name: string;
  readonly points: number;
  readonly lastPointMs: number | null;
  /** What would be lost if the machine were lost now, as time; null when nothing can be recovered. */
  readonly rpoMs: number | null;
  /** The state of its continuous protection; `none` without. */
  readonly protection: string;
}

/** Of all NBD servers of the process, since it started. */
export interface NbdFigures {
  readonly exports: number;
  readonly connections: number;
  readonly requests: Readonly<Record<string, number>>;
  readonly errors: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly latencyBoundsMs: readonly number[];
  /** Of requests whose time was taken, by command: how many lie in each class, the last without a bound, and their sum. */
  readonly latency: Readonly<Record<string, { readonly classes: readonly number[]; readonly sumMs: number }>>;
}
