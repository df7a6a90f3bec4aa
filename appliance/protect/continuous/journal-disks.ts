// SPDX-License-Identifier: Apache-2.0
import type { PointDisk, RecoveryPoint } from '../../repository/manifest.ts';
import type { JournalPoint } from '../../volume/fold-journal.ts';
import type { SessionDisk } from './ports.ts';

/** In the order of the journal. */
export function byPlace(a: JournalPoint, b: JournalPoint): number {
  return a.journal.sequence - b.journal.sequence || a.sequence - b.sequence;
}

/** A disk keeps its number as long as it is the same disk of the same size; any other gets one that was never used. */
export function numbering(points: JournalPoint[]): (disk: PointDisk) => number {
  const known = points
    .sort(byPlace)
    .flatMap(({ disks, journal }) =>
      disks.map((disk) => ({ key: keyOf(disk), number: journal.disks[disk.name] ?? 0 })),
    );
  let next = known.reduce((most, { number }) => Math.max(most, number), -1) + 1;
  return (disk) => {
    const same = known.findLast(({ key }) => key === keyOf(disk));
    if (same !== undefined) return same.number;
    const number = next;
    next += 1;
    return number;
  };
}

export function hasDisks(point: RecoveryPoint, disks: readonly SessionDisk[]): boolean {
  const ofPoint = point.disks.map(keyOf).sort();
  return JSON.stringify(ofPoint) === JSON.stringify(disks.map(keyOf).sort());
}

/** The format of a volume is known to some who look at it and not to others. */
function keyOf({ name, sizeBytes, identity }: Pick<SessionDisk, 'name' | 'sizeBytes' | 'identity'>): string {
  const facts = Object.entries(identity).filter(([fact]) => fact !== 'format');
  return JSON.stringify([name, sizeBytes, facts.sort(([a], [b]) => (a < b ? -1 : 1))]);
}
