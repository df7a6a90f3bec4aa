// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../appliance/core/clock.ts';
import { systemErrorCode } from '../appliance/core/errors.ts';

export interface FoundProcess {
  readonly pid: number;
  readonly args: readonly string[];
}

const POLL_MS = 20;

/**
 * The processes whose command line names a path in `directory`. For a directory with a unique name these are the ones that
 * were started for it.
 */
export async function processesOf(directory: string): Promise<FoundProcess[]> {
  const found: FoundProcess[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const args = (await commandLine(name)).split('\0');
    if (args.some((argument) => argument.includes(directory))) found.push({ pid: Number(name), args });
  }
  return found;
}

/** Asks a process to end, and makes it after `limitMs`. Settles when it is gone. */
export async function endProcess(pid: number, limitMs: number): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!existsSync(`/proc/${pid}`)) return;
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (systemErrorCode(error) === 'ESRCH') return;
      throw error;
    }
    const deadline = systemClock.elapsedMs() + limitMs;
    while (existsSync(`/proc/${pid}`) && systemClock.elapsedMs() < deadline) await delay(POLL_MS);
  }
}

async function commandLine(pid: string): Promise<string> {
  try {
    return await readFile(`/proc/${pid}/cmdline`, 'utf8');
  } catch (error) {
    // It ended meanwhile, or belongs to somebody else.
    if (['ENOENT', 'ESRCH', 'EACCES', 'EPERM'].includes(systemErrorCode(error) ?? '')) return '';
    throw error;
  }
}
