// SPDX-License-Identifier: Apache-2.0
import { normalizeRanges, type Range, totalLength } from '../../core/extents.ts';
import type { PointDisk } from '../../repository/manifest.ts';
import type { RecoverContext } from '../context.ts';
import type { SessionHistory } from '../session-history.ts';
import { updateDevice } from '../update-device.ts';
import { changesSince, copyRanges, verifyRanges } from './copy-back.ts';
import type { InPlaceDisks } from './in-place-disks.ts';

/** Bytes of all disks. */
export interface Copied {
  readonly changedBytes: number;
  readonly copiedBytes: number;
  readonly zeroedBytes: number;
  readonly verifiedBytes: number;
}

export interface ReturnCopyOptions {
  /** Disk n of the log is disk n here. */
  readonly disks: readonly PointDisk[];
  /** Nothing of it is folded meanwhile. */
  readonly history: Pick<SessionHistory, 'overlay' | 'log'>;
  /** What was folded before, by disk: it has left the log's index. */
  readonly folded: ReadonlyMap<string, readonly Range[]>;
  readonly targets: InPlaceDisks;
  readonly context: RecoverContext;
}

/** Copies what a session has written to the disks that it began with, in rounds: each brings what came since the one before. */
export class ReturnCopy {
  readonly #options: ReturnCopyOptions;
  /** The place in the log up to which everything is in the targets. */
  #after = 0;
  #hasFolded = false;
  readonly #written = new Map<string, Range[]>();
  #copiedBytes = 0;
  #zeroedBytes = 0;

  constructor(options: ReturnCopyOptions) {
    this.#options = options;
  }

  /** Compares whole disks and copies what differs. What the guest writes meanwhile comes with the next round. */
  async everything(): Promise<void> {
    const { disks, history, targets, context } = this.#options;
    const { overlay } = history;
    const [newest] = this.#changes(0);
    for (const disk of disks) {
      const target = targets.device(disk.name);
      const { writtenBytes, zeroedBytes } = await updateDevice(overlay.device(disk), target, {
        signal: context.signal,
        onProgress: (done) =>
          context.onProgress({ phase: `comparing ${disk.name}`, done, total: target.sizeBytes, unit: 'bytes' }),
        onWritten: (range) => this.#note(disk.name, [range]),
      });
      this.#copiedBytes += writtenBytes;
      this.#zeroedBytes += zeroedBytes;
    }
    this.#after = newest;
    this.#hasFolded = true;
  }

  /** Copies what came since the last round. Settles with its bytes, zeroes apart. */
  async round(): Promise<number> {
    const { history, targets, context } = this.#options;
    const { overlay } = history;
    const [newest, changes] = this.#changes(this.#after, !this.#hasFolded);
    let bytes = 0;
    for (const [disk, { data, zeroes }] of changes) {
      context.onProgress({ phase: `copying ${disk.name}`, done: bytes, total: 0, unit: 'bytes' });
      // Noted before: what an error leaves is to be known, too.
      this.#note(disk.name, [...data, ...zeroes]);
      const { signal } = context;
      const copied = await copyRanges(overlay.device(disk), targets.device(disk.name), { data, zeroes, signal });
      bytes += copied.data;
      this.#zeroedBytes += copied.zeroes;
    }
    this.#copiedBytes += bytes;
    this.#after = newest;
    this.#hasFolded = true;
    return bytes;
  }

  /** Reads everything back that was written, and everything that the session wrote, and compares. @throws ApplianceError VERIFY_FAILED */
  async verify(): Promise<Copied> {
    const { history, targets, context } = this.#options;
    const { overlay } = history;
    let [changedBytes, verifiedBytes] = [0, 0];
    const [, all] = this.#changes(0, true);
    for (const [disk, { data, zeroes }] of all) {
      changedBytes += totalLength(data);
      const ranges = [...(this.#written.get(disk.name) ?? []), ...data, ...zeroes];
      context.onProgress({ phase: `reading ${disk.name} back`, done: 0, total: 0, unit: 'bytes' });
      verifiedBytes += await verifyRanges(overlay.device(disk), targets.device(disk.name), {
        ranges,
        disk: disk.name,
        signal: context.signal,
      });
    }
    const [copiedBytes, zeroedBytes] = [this.#copiedBytes, this.#zeroedBytes];
    return { changedBytes, copiedBytes, zeroedBytes, verifiedBytes };
  }

  /** In one turn over all disks, so that one place in the log bounds them. */
  #changes(after: number, withFolded = false): [number, [PointDisk, ReturnType<typeof changesSince>][]] {
    const { disks, history, folded } = this.#options;
    const changes = disks.map((disk, index): [PointDisk, ReturnType<typeof changesSince>] => {
      const found = changesSince(history.log, index, { sizeBytes: disk.sizeBytes, after });
      const before = withFolded ? (folded.get(disk.name) ?? []) : [];
      return [disk, { ...found, data: normalizeRanges([...before, ...found.data]) }];
    });
    return [Math.max(after, ...changes.map(([, { newest }]) => newest)), changes];
  }

  #note(disk: string, ranges: readonly Range[]): void {
    const noted = this.#written.get(disk) ?? [];
    noted.push(...ranges);
    this.#written.set(disk, noted);
  }
}
