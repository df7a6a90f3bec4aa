// SPDX-License-Identifier: Apache-2.0
import { readFile, rm } from 'node:fs/promises';
import { ApplianceError } from '../appliance/core/errors.ts';
import { measureProcess } from './measured-process.ts';

export interface FioLoad {
  readonly uri: string;
  readonly pattern: 'randread' | 'read' | 'randwrite';
  readonly blockBytes: number;
  readonly depth: number;
  /** The part of the disk that is read or written. */
  readonly offset: number;
  readonly size: number;
  readonly seconds: number;
  /** Begin again at the end of the part until the time is over; otherwise whatever comes first. */
  readonly isTimeBased: boolean;
  /** A file for fio's report. */
  readonly reportPath: string;
}

export interface FioFigures {
  readonly iops: number;
  readonly mibPerSecond: number;
  /** Microseconds until 99 of 100 requests were answered. */
  readonly p99Us: number;
}

interface FioDirection {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

interface FioReport {
  readonly jobs: readonly { readonly error: number; readonly read: FioDirection; readonly write: FioDirection }[];
}

/** Not counted at the start of a load of fixed duration: both sides get going. */
const RAMP_SECONDS = 1;

/** One load of reads or writes on an NBD export, by fio's own NBD engine. @throws ApplianceError TOOL_FAILED */
export async function runFio(load: FioLoad): Promise<FioFigures> {
  const args = [
    '--name=load',
    '--ioengine=nbd',
    `--uri=${load.uri}`,
    `--rw=${load.pattern}`,
    `--bs=${load.blockBytes}`,
    `--iodepth=${load.depth}`,
    `--offset=${load.offset}`,
    `--size=${load.size}`,
    `--runtime=${load.seconds}`,
    '--norandommap',
    '--randrepeat=1',
    `--output=${load.reportPath}`,
    '--output-format=json',
  ];
  if (load.pattern !== 'randwrite') args.push('--readonly');
  if (load.isTimeBased) args.push('--time_based', `--ramp_time=${RAMP_SECONDS}`);
  await measureProcess('fio', args);
  const text = await readFile(load.reportPath, 'utf8');
  await rm(load.reportPath);
  // fio prints notes in front of the JSON.
  const report = JSON.parse(text.slice(text.indexOf('{'))) as FioReport;
  const [job] = report.jobs;
  if (job === undefined || job.error !== 0) throw new ApplianceError('TOOL_FAILED', `fio failed on ${load.uri}`);
  const direction = load.pattern === 'randwrite' ? job.write : job.read;
  return {
    iops: direction.iops,
    mibPerSecond: direction.bw_bytes / 2 ** 20,
    p99Us: (direction.clat_ns.percentile?.['99.000000'] ?? Number.NaN) / 1000,
  };
}
