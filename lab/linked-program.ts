// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { type CpioEntry, DIRECTORY_MODE, PROGRAM_MODE } from './cpio.ts';
import { tryRun } from './run.ts';

const LIBRARY_LOADER = /^\s*(\/\S*ld-linux\S*)/;

/**
 * A program with the libraries of this machine that it is linked with, for a folder of an initramfs: start it with
 * `LD_LIBRARY_PATH=/<folder>`. Undefined when a library is missing.
 */
export async function linkedProgramEntries(program: string, folder: string): Promise<CpioEntry[] | undefined> {
  const linked = await tryRun('ldd', [program]);
  if (linked === undefined || linked.stdout.includes('not found')) return undefined;
  const inFolder = async (path: string): Promise<CpioEntry> => ({
    path: `${folder}/${basename(path)}`,
    mode: PROGRAM_MODE,
    content: await readFile(path),
  });
  const entries: CpioEntry[] = [await inFolder(program)];
  for (const line of linked.stdout.split('\n')) {
    const library = /=> (\/\S+)/.exec(line)?.[1];
    if (library !== undefined) entries.push(await inFolder(library));
    const loader = LIBRARY_LOADER.exec(line)?.[1];
    if (loader !== undefined) entries.push(...(await loaderEntries(loader)));
  }
  return entries;
}

/** The dynamic loader must stand where the program's header says. */
async function loaderEntries(path: string): Promise<CpioEntry[]> {
  const parts = path.slice(1).split('/');
  const parents = parts.slice(0, -1).map((_, index) => parts.slice(0, index + 1).join('/'));
  return [
    ...parents.map((parent) => ({ path: parent, mode: DIRECTORY_MODE, content: new Uint8Array() })),
    { path: parts.join('/'), mode: PROGRAM_MODE, content: await readFile(path) },
  ];
}
