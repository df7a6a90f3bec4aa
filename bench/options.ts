// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { ApplianceError, toError } from '../appliance/core/errors.ts';

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

export interface BenchOptions {
  /** A small input and short runs: shows that everything works, its figures mean little. */
  readonly isQuick: boolean;
  readonly rows: readonly RowName[];
  readonly diskBytes: number;
  /** Runs of each contender, interleaved. */
  readonly rounds: number;
  /** Seconds of one load of random reads. */
  readonly loadSeconds: number;
  /** Recovery points of the long chain. */
  readonly longChain: number;
  /** Also with the host's page cache dropped before each run; for root, and it slows everybody on the machine. */
  readonly isColdIncluded: boolean;
  readonly jsonPath: string | undefined;
  readonly markdownPath: string | undefined;
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
  const values = parse(argv);
  if (values.help === true) return 'help';
  const isQuick = values.quick === true;
  if (values.cold === true && !canDropPageCache()) throw bad('--cold needs root');
  const rows = values.only ?? [...ROW_NAMES];
  for (const row of rows) if (!isRowName(row)) throw bad(`there is no row ${row}; one of: ${ROW_NAMES.join(', ')}`);
  const sizeGib = positive(values.size ?? (isQuick ? '0.5' : '8'), '--size');
  if (sizeGib < 0.25) throw bad('--size is at least 0.25');
  return {
    isQuick,
    rows: ROW_NAMES.filter((row) => rows.includes(row)),
    diskBytes: Math.ceil((sizeGib * GIB) / 2 ** 20) * 2 ** 20,
    rounds: Math.ceil(positive(values.rounds ?? (isQuick ? '1' : '3'), '--rounds')),
    loadSeconds: isQuick ? 2 : 10,
    longChain: isQuick ? 50 : 1000,
    isColdIncluded: values.cold === true,
    jsonPath: values.json,
    markdownPath: values.markdown,
  };
}

function parse(argv: readonly string[]): {
  quick?: boolean;
  help?: boolean;
  cold?: boolean;
  only?: string[];
  size?: string;
  rounds?: string;
  json?: string;
  markdown?: string;
} {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        quick: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
        cold: { type: 'boolean' },
        only: { type: 'string', multiple: true },
        size: { type: 'string' },
        rounds: { type: 'string' },
        json: { type: 'string' },
        markdown: { type: 'string' },
      },
    }).values;
  } catch (cause) {
    throw new ApplianceError('BAD_ARGUMENT', toError(cause).message, { cause, hint: USAGE });
  }
}

function canDropPageCache(): boolean {
  return process.getuid?.() === 0 && existsSync(PAGE_CACHE_SWITCH);
}

function isRowName(name: string): name is RowName {
  return ROW_NAMES.some((row) => row === name);
}

function positive(text: string, option: string): number {
  const value = Number(text);
  if (!(value > 0)) throw bad(`${option} needs a number above 0`);
  return value;
}

function bad(message: string): ApplianceError {
  return new ApplianceError('BAD_ARGUMENT', message, { hint: USAGE });
}
