// SPDX-License-Identifier: Apache-2.0
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { runBackup } from '../appliance/protect/backup-run.ts';
import { openBitmapSource } from './bitmap-source.ts';
import { growChain } from './grow-chain.ts';
import { newestPoint, openState } from './opened-state.ts';

/*
 * What the command line cannot do without a hypervisor, as a process that can be measured like any other:
 *
 *   node bench/subject.ts incremental STATE NBD-URI BITMAP    an incremental by a dirty bitmap; prints IncrementalReport
 *   node bench/subject.ts grow STATE DISK POINTS              adds points until there are so many
 */

export interface IncrementalReport {
  readonly points: number;
  /** Opening catalog and repository. */
  readonly openMs: number;
  /** From the opened repository to the durable recovery point. */
  readonly runMs: number;
  readonly readBytes: number;
  readonly storedBytes: number;
}

async function incremental([state = '', uri = '', bitmap = '']: readonly string[]): Promise<void> {
  const began = systemClock.elapsedMs();
  await using opened = await openState(state);
  const openedAt = systemClock.elapsedMs();
  const { repository, catalog } = opened;
  const points = await catalog.points();
  const previous = await newestPoint(catalog);
  if (previous === undefined) throw new ApplianceError('POINT_NOT_FOUND', 'an incremental needs a point before it');
  await using source = await openBitmapSource(uri, bitmap, previous);
  const point = await runBackup({
    repository,
    catalog,
    clock: systemClock,
    source,
    previous,
    startedAtMs: openedAt,
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onNotice: (sentence) => {
      throw new ApplianceError('INTERNAL', sentence);
    },
  });
  const report: IncrementalReport = {
    points: points.length,
    openMs: openedAt - began,
    runMs: systemClock.elapsedMs() - openedAt,
    readBytes: point.disks[0]?.stats.readBytes ?? 0,
    storedBytes: point.disks[0]?.stats.storedBytes ?? 0,
  };
  process.stdout.write(`${JSON.stringify(report)}\n`);
}

async function grow([state = '', disk = '', points = '']: readonly string[]): Promise<void> {
  await using opened = await openState(state);
  await growChain(opened, disk, Number(points));
}

const [operation, ...args] = process.argv.slice(2);
const operations: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = { incremental, grow };
const chosen = operations[operation ?? ''];
if (chosen === undefined) throw new ApplianceError('BAD_ARGUMENT', `there is no operation ${operation}`);
await chosen(args);
