// SPDX-License-Identifier: Apache-2.0
import type { PreviousState } from '../../cbt/source.ts';

/** A position of the tracker, and how it stands to the journal. */
export interface CyclePosition extends PreviousState {
  readonly journal: {
    readonly logId: string;
    /** The journal up to here holds what was there at the position. */
    readonly sequence: number;
    /** What the journal has after it may be newer than the position. Default: `sequence`. */
    readonly newerAfter?: number;
  };
}

/** The checkpoint from which a position, or a point, continues. */
export function checkpointsOf(position: Pick<PreviousState, 'tracker'> | undefined): string[] {
  const name = position?.tracker['checkpoint'];
  return name === undefined ? [] : [name];
}
