// SPDX-License-Identifier: Apache-2.0
import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';
import { ApplianceError, toError } from '../appliance/core/errors.ts';
import type { ProgramOptions } from './program.ts';

/** The words that every benchmark understands. */
interface CommonWords {
  readonly quick?: boolean;
  readonly help?: boolean;
  readonly only?: string[];
  readonly rounds?: string;
  readonly json?: string;
  readonly markdown?: string;
}

type Words<More extends Readonly<Record<string, 'string' | 'boolean'>>> = CommonWords & {
  readonly [Name in keyof More]?: More[Name] extends 'string' ? string : boolean;
};

/** The arguments of a benchmark with some of its own. @throws ApplianceError BAD_ARGUMENT */
export function parseWords<const More extends Readonly<Record<string, 'string' | 'boolean'>>>(
  argv: readonly string[],
  usage: string,
  more: More,
): Words<More> {
  const options: ParseArgsOptionsConfig = {
    quick: { type: 'boolean' },
    help: { type: 'boolean', short: 'h' },
    only: { type: 'string', multiple: true },
    rounds: { type: 'string' },
    json: { type: 'string' },
    markdown: { type: 'string' },
    ...Object.fromEntries(Object.entries(more).map(([name, type]) => [name, { type }])),
  };
  try {
    return parseArgs({ args: [...argv], options }).values as Words<More>;
  } catch (cause) {
    throw new ApplianceError('BAD_ARGUMENT', toError(cause).message, { cause, hint: usage });
  }
}

/** What the common words say. @throws ApplianceError BAD_ARGUMENT */
export function programOptions<Row extends string>(
  values: CommonWords,
  { rowNames, usage }: { readonly rowNames: readonly Row[]; readonly usage: string },
): ProgramOptions<Row> {
  const isQuick = values.quick === true;
  const rows: readonly string[] = values.only ?? rowNames;
  for (const row of rows) {
    if (!rowNames.some((name) => name === row)) {
      throw bad(`there is no row ${row}; one of: ${rowNames.join(', ')}`, usage);
    }
  }
  return {
    isQuick,
    rows: rowNames.filter((row) => rows.includes(row)),
    rounds: Math.ceil(positive(values.rounds ?? (isQuick ? '1' : '3'), '--rounds', usage)),
    jsonPath: values.json,
    markdownPath: values.markdown,
  };
}

/** @throws ApplianceError BAD_ARGUMENT */
export function positive(text: string, option: string, usage: string): number {
  const value = Number(text);
  if (!(value > 0)) throw bad(`${option} needs a number above 0`, usage);
  return value;
}

export function bad(message: string, usage: string): ApplianceError {
  return new ApplianceError('BAD_ARGUMENT', message, { hint: usage });
}
