// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import type { Clock } from '../../appliance/core/clock.ts';
import type { FileSystem } from '../../appliance/core/file-system.ts';
import { type MachineId, parseMachineId } from '../../appliance/core/ids.ts';
import { loggedDevice } from '../../appliance/volume/logged-device.ts';
import { WriteLog } from '../../appliance/volume/write-log.ts';

export const MACHINE: MachineId = parseMachineId('0190a4c2-7d3e-4f10-8a55-1c2d3e4f5a6b');
export const KEY: Buffer = Buffer.alloc(32, 0x42);

export const fixedClock: Clock = { nowMs: () => 1_800_000_000_000, elapsedMs: () => 0 };

export interface LogSetup {
  readonly directory: string;
  readonly fileSystem: FileSystem;
  readonly key: Buffer | null;
  readonly segmentBytes?: number;
}

export async function openLog(setup: LogSetup): Promise<WriteLog> {
  const { directory, ...options } = setup;
  return await WriteLog.open(directory, { ...options, machineId: MACHINE, clock: fixedClock });
}

/** What a disk of the log reads now, over an empty base. */
export async function readDisk(log: WriteLog, disk: number, sizeBytes: number): Promise<Buffer> {
  await using base = memoryDevice({ sizeBytes });
  const device = loggedDevice({ base, log, disk });
  const content = Buffer.alloc(sizeBytes, 0xcc);
  await device.read(0, content);
  return content;
}

export type Step =
  | { readonly kind: 'write'; readonly disk: number; readonly offset: number; readonly data: Buffer }
  | { readonly kind: 'zero'; readonly disk: number; readonly offset: number; readonly length: number };

/** Disks as flat arrays, and all their states since the last flush, oldest first. */
export class DiskModel {
  readonly sizeBytes: number;
  disks: Buffer[];
  /** states[0] is the state at the last flush. */
  states: Buffer[][];

  constructor(count: number, sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.disks = Array.from({ length: count }, () => Buffer.alloc(sizeBytes));
    this.states = [this.copy()];
  }

  apply(step: Step): void {
    const disk = this.disks[step.disk];
    assert.ok(disk !== undefined);
    if (step.kind === 'write') step.data.copy(disk, step.offset);
    else disk.fill(0, step.offset, step.offset + step.length);
    this.states.push(this.copy());
  }

  flushed(): void {
    this.states = [this.copy()];
  }

  /** Index of the newest state that the log's disks are in, or -1. */
  async matching(log: WriteLog): Promise<number> {
    const read: Buffer[] = [];
    for (const disk of this.disks.keys()) read.push(await readDisk(log, disk, this.sizeBytes));
    return this.states.findLastIndex((state) => state.every((content, disk) => read[disk]?.equals(content)));
  }

  private copy(): Buffer[] {
    return this.disks.map((disk) => Buffer.from(disk));
  }
}

/** A seeded step on one of the disks; some of it crosses record and alignment boundaries. */
export function randomStep(random: () => number, model: DiskModel, maximumBytes: number): Step {
  const disk = Math.floor(random() * model.disks.length);
  const offset = Math.floor(random() * model.sizeBytes);
  const length = Math.min(1 + Math.floor(random() * maximumBytes), model.sizeBytes - offset);
  if (random() < 0.25) return { kind: 'zero', disk, offset, length };
  const data = Buffer.alloc(length);
  for (let index = 0; index < length; index++) data[index] = 1 + Math.floor(random() * 255);
  return { kind: 'write', disk, offset, data };
}

/** Writes at odd places are appended at once where that can be. */
export async function append(log: WriteLog, step: Step): Promise<void> {
  if (step.kind === 'write' && step.offset % 2 === 1 && log.appendNow(step.disk, [step]) !== undefined) return;
  if (step.kind === 'write') await log.append(step);
  else await log.appendZero(step);
}
