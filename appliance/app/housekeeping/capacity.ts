// SPDX-License-Identifier: Apache-2.0
import { statfs } from 'node:fs/promises';
import type { CapacityReport } from '../../api/schemas/upkeep.ts';
import { storageError } from '../../core/file-system.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import type { Foundation, Storage } from '../core.ts';
import { perPoints } from '../per-points.ts';
import {
  type CapacityLevel,
  type CapacitySample,
  capacityLevel,
  type Forecast,
  forecast,
  SAMPLE_INTERVAL_MS,
  withSample,
} from './forecast.ts';

/** What housekeeping needs of what stays the same while the appliance is open. */
export type UpkeepFoundation = Pick<Foundation, 'clock' | 'store' | 'onFailure'>;

/** The record of the samples in the catalog. */
const CAPACITY_NOTE = 'capacity';

/** How the repository stands and where it goes, now. */
export interface CapacityNow extends Forecast {
  readonly sample: CapacitySample;
  readonly level: CapacityLevel;
}

/** Measures the repository, keeps a sample of each day, and tells when room becomes short. */
export class CapacityWatch {
  readonly #foundation: UpkeepFoundation;
  readonly #onNotice: (sentence: string) => void;
  #samples: readonly CapacitySample[] | undefined;
  #saidLevel: CapacityLevel = 'ok';

  constructor(foundation: UpkeepFoundation, onNotice: (sentence: string) => void) {
    this.#foundation = foundation;
    this.#onNotice = onNotice;
  }

  /** Another catalog is open from here on. */
  forget(): void {
    this.#samples = undefined;
  }

  /**
   * Takes the sample of the day if it is due, and says when room has become short. To be called often: between samples only the
   * free room is looked at. @throws ApplianceError IO_FAILED, CATALOG_DAMAGED, NO_SPACE
   */
  async look(storage: Storage): Promise<CapacityLevel> {
    const samples = await this.#load(storage);
    const last = samples.at(-1);
    const atMs = this.#foundation.clock.nowMs();
    const isDue = last === undefined || last.atMs > atMs || atMs - last.atMs >= SAMPLE_INTERVAL_MS;
    const sample = isDue
      ? await this.#measure(storage)
      : { ...last, ...(await roomAt(this.#foundation.store.root)), atMs };
    const outlook = forecast(samples, sample);
    const level = capacityLevel(outlook, sample);
    this.#say({ ...outlook, sample, level });
    if (isDue) {
      this.#samples = withSample(samples, sample);
      await storage.catalog.putNote(CAPACITY_NOTE, this.#samples);
    }
    return level;
  }

  async now(storage: Storage): Promise<CapacityNow> {
    const sample = await this.#measure(storage);
    const outlook = forecast(await this.#load(storage), sample);
    return { ...outlook, sample, level: capacityLevel(outlook, sample) };
  }

  async report(storage: Storage): Promise<CapacityReport> {
    const now = await this.now(storage);
    const { atMs: _, ...sizes } = now.sample;
    return {
      ...sizes,
      level: now.level,
      growthBytesPerDay: now.growthBytesPerDay,
      daysUntilFull: now.daysUntilFull,
      historyDays: now.historyDays,
      history: (await this.#load(storage)).map(({ atMs, ...sample }) => ({
        at: new Date(atMs).toISOString(),
        ...sample,
      })),
      machines: machineCosts(await storage.catalog.points()),
    };
  }

  async #measure({ catalog }: Storage): Promise<CapacitySample> {
    const { freeBytes, totalBytes } = await roomAt(this.#foundation.store.root);
    const { uniqueBytes, storedBytes } = await catalog.totals();
    const atMs = this.#foundation.clock.nowMs();
    return {
      atMs,
      logicalBytes: pointCounts(await catalog.pointLists()).logicalBytes,
      uniqueBytes,
      storedBytes,
      freeBytes,
      totalBytes,
    };
  }

  async #load(storage: Storage): Promise<readonly CapacitySample[]> {
    this.#samples ??= ((await storage.catalog.note(CAPACITY_NOTE)) as readonly CapacitySample[] | undefined) ?? [];
    return this.#samples;
  }

  #say({ level, sample, daysUntilFull }: CapacityNow): void {
    if (level === this.#saidLevel) return;
    const isWorse = level === 'critical' || this.#saidLevel === 'ok';
    this.#saidLevel = level;
    if (!isWorse) return;
    const share = Math.floor((100 * sample.freeBytes) / Math.max(1, sample.totalBytes));
    const until = daysUntilFull === null ? '' : `, and full in ${daysUntilFull} days at this pace`;
    this.#onNotice(`room in the repository becomes short (${level}): ${share} % is free${until}`);
  }
}

/** What a user may still write there. @throws ApplianceError IO_FAILED */
export async function roomAt(path: string): Promise<{ readonly freeBytes: number; readonly totalBytes: number }> {
  try {
    const { bavail, blocks, bsize } = await statfs(path);
    return { freeBytes: bavail * bsize, totalBytes: blocks * bsize };
  } catch (error) {
    throw storageError(error, 'look at', path);
  }
}

/** What all listed points come to. */
export const pointCounts = perPoints(({ listed }) => ({
  points: listed.length,
  machines: new Set(listed.map(({ machine }) => machine.id)).size,
  logicalBytes: logicalBytes(listed),
}));

/** The data of all points, as if each stood alone. */
export function logicalBytes(points: readonly RecoveryPoint[]): number {
  return points.reduce((sum, { disks }) => sum + disks.reduce((part, { dataBytes }) => part + dataBytes, 0), 0);
}

/** What each machine takes, the most expensive first. */
export function machineCosts(points: readonly RecoveryPoint[]): CapacityReport['machines'] {
  const costs = [...Map.groupBy(points, ({ machine }) => machine.id).values()].map((own) => {
    const newest = own.reduce((a, b) => (b.sequence > a.sequence ? b : a));
    const added = own.flatMap(({ disks }) => disks.map(({ stats }) => stats.storedBytes));
    return {
      id: newest.machine.id,
      name: newest.machine.name,
      points: own.length,
      logicalBytes: logicalBytes(own),
      addedBytes: added.reduce((sum, bytes) => sum + bytes, 0),
    };
  });
  return costs.toSorted((a, b) => b.addedBytes - a.addedBytes || a.name.localeCompare(b.name, 'en'));
}
