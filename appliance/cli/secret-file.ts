// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import type { CommandRun } from './command-run.ts';

/** The first line of a file, or of standard input for `-`: secrets are no arguments, which everybody on the host can see. */
export async function readSecretFile(run: CommandRun, file: string): Promise<string> {
  const content = file === '-' ? await text(run.io.stdin) : await readText(run.path(file));
  const [line = ''] = content.split(/\r?\n/);
  if (line === '') throw new ApplianceError('BAD_ARGUMENT', `${file} has nothing in its first line`);
  return line;
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const code = systemErrorCode(cause);
    if (code === undefined) throw cause;
    throw new ApplianceError('BAD_ARGUMENT', `${path} cannot be read (${code})`, { cause });
  }
}
