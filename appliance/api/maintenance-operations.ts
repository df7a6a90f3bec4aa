// SPDX-License-Identifier: Apache-2.0

/** What keeps a repository healthy, and says what it holds. */

export interface CheckParams {
  readonly readData?: boolean;
}

/** One defect, and what it touches. */
export interface CheckFinding {
  readonly what: string;
  readonly object: string;
  readonly touches: readonly {
    readonly point: string;
    readonly machine: string;
    readonly disk: string;
    readonly offset: number;
    readonly length: number;
  }[];
}

export interface CheckReport {
  readonly ok: boolean;
  readonly readData: boolean;
  readonly points: number;
  readonly packs: number;
  readonly nodes: number;
  readonly chunks: number;
  readonly readBytes: number;
  readonly durationMs: number;
  readonly findings: readonly CheckFinding[];
}

export interface RebuildReport {
  readonly points: number;
  readonly packs: number;
  readonly chunks: number;
  readonly problems: readonly string[];
  readonly durationMs: number;
}

export interface GcParams {
  /** Also free what was deleted within the grace period. */
  readonly now?: boolean;
}

export interface GcReport {
  readonly liveBytes: number;
  readonly packsDeleted: number;
  readonly packsRewritten: number;
  /** Packs that are mostly garbage and stay, because there is no room to copy what lives in them. */
  readonly packsWithoutRoom: number;
  readonly freedBytes: number;
  /** Deleted points that are still within the grace period. */
  readonly pointsInGrace: number;
  readonly pointsPurged: number;
  readonly durationMs: number;
}

/** What the repository holds. Deduplication ratio = logical / unique, compression ratio = unique / stored. */
export interface StatusReport {
  readonly state: string;
  readonly repository: string;
  readonly repositoryId: string;
  readonly encryption: string;
  readonly chunkBytes: number;
  readonly points: number;
  readonly machines: number;
  /** Sum of the data of all points, as if each stood alone. */
  readonly logicalBytes: number;
  readonly uniqueBytes: number;
  readonly storedBytes: number;
  /** The process that serves the state, null when the command worked alone. */
  readonly servicePid: number | null;
}
