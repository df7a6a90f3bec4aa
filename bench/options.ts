// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import type { ProgramOptions } from './program.ts';
import { bad, parseWords, positive, programOptions } from './program-options.ts';

/** The rows of the benchmark, in the order in which they run. */
export const ROW_NAMES = [
  'first-backup',
  'incremental',
  'sparse-disk',
  'open-export',
  'export-reads',
  'restore',
  'boot',
] as const;
export type RowName = (typeof ROW_NAMES)[number];

export interface BenchOptions extends ProgramOptions<RowName> {
  readonly diskBytes: number;
  /** Seconds of one load of random reads. */
  readonly loadSeconds: number;
  /** Recovery points of the long chain. */
  readonly longChain: number;
  /** Also with the host's page cache dropped before each run; for root, and it slows everybody on the machine. */
  readonly isColdIncluded: boolean;
}

export const USAGE: string = `npm run bench -- [--quick] [--only ROW]… [--size GIB] [--rounds N] [--cold] [--json FILE] [--markdown FILE]

  --quick          a disk of 0.5 GiB and short runs; for trying the benchmark itself
  --only ROW       only this row; may be given several times: ${ROW_NAMES.join(', ')}
  --size GIB       size of the disk (default 8; about two thirds of it are data)
  --rounds N       runs of each contender, interleaved (default 3)
  --cold           reads from an export also with an empty page cache (root; drops it for the whole machine)
  --json FILE      every sample as JSON
  --markdown FILE  the table as Markdown, put into docs/benchmarks.md when that is the file

It needs about 30 GB of free disk beneath .cache/bench, which keeps the input for the next run.
`;

/** Writing `1` drops the page cache (proc(5)). */
export const PAGE_CACHE_SWITCH = '/proc/sys/vm/drop_caches';

const GIB: number = 1024 ** 3;

/** @throws ApplianceError BAD_ARGUMENT */
export function parseOptions(argv: readonly string[]): BenchOptions | 'help' {
  const values = parseWords(argv, USAGE, { cold: 'boolean', size: 'string' });
  if (values.help === true) return 'help';
  const isQuick = values.quick === true;
  if (values.cold === true && !canDropPageCache()) throw bad('--cold needs root', USAGE);
  const sizeGib = positive(values.size ?? (isQuick ? '0.5' : '8'), '--size', USAGE);
  if (sizeGib < 0.25) throw bad('--size is at least 0.25', USAGE);
  return {
    ...programOptions(values, { rowNames: ROW_NAMES, usage: USAGE }),
    diskBytes: Math.ceil((sizeGib * GIB) / 2 ** 20) * 2 ** 20,
    loadSeconds: isQuick ? 2 : 10,
    longChain: isQuick ? 50 : 1000,
    isColdIncluded: values.cold === true,
  };
}

function canDropPageCache(): boolean {
  return process.getuid?.() === 0 && existsSync(PAGE_CACHE_SWITCH);
}
