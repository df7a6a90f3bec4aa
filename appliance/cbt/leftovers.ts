// SPDX-License-Identifier: Apache-2.0
import { readdir, readFile, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../core/clock.ts';
import { systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { DiskPlan } from './plan-disks.ts';

/** Directories of runs in the runtime directory; see `live-source.ts` and `offline-source.ts`. */
const RUN_DIRECTORY = /^[0-9a-f]{12}$/;
const PROCESS_ID = /^[1-9][0-9]*$/;
const END_LIMIT_MS = 5_000;
const POLL_MS = 20;

/** Where the guest's old blocks go while a job runs: beside the image, where the machine's storage has room. */
export function scratchPathBeside(image: string, name: string): string {
  return join(dirname(image), `.${basename(image)}.${name.slice(-16)}.scratch`);
}

/**
 * Removes what runs of a killed process left behind: their directories and sockets, scratch files of ours, and
 * `qemu-nbd` processes, which would keep an image locked against the start of its machine. Only for the one process that
 * holds the state directory, before it runs anything. A backup job that still runs loses its socket and nothing else;
 * the machine's next run ends it. Settles with sentences about what was ended. @throws ApplianceError IO_FAILED
 */
export async function removeLeftoverRuns(runtimeDirectory: string, scratchDirectory: string): Promise<string[]> {
  const sentences: string[] = [];
  for (const name of await namesIn(runtimeDirectory)) {
    if (!RUN_DIRECTORY.test(name)) continue;
    const directory = join(runtimeDirectory, name);
    for (const pid of await serversOn(directory)) {
      await endProcess(pid);
      sentences.push(`a qemu-nbd (process ${pid}) that an interrupted run had left was ended`);
    }
    await remove(directory);
  }
  for (const name of await namesIn(scratchDirectory)) await remove(join(scratchDirectory, name));
  return sentences;
}

/** Removes scratch files of ended jobs beside the images. Only while no backup job runs on the machine. */
export async function removeLeftoverScratch(plans: readonly DiskPlan[]): Promise<void> {
  for (const { disk } of plans) {
    if (disk.source?.kind !== 'file') continue;
    const image = disk.source.path;
    const start = `.${basename(image)}.`;
    // A service that is not root may not list libvirt's directories; libvirt removes what it made there itself.
    for (const name of await namesIn(dirname(image), ['ENOENT', 'EACCES'])) {
      const isScratch = name.startsWith(start) && /^[0-9a-f]{16}\.scratch$/.test(name.slice(start.length));
      if (isScratch) await remove(join(dirname(image), name));
    }
  }
}

/** `qemu-nbd` processes that listen in the directory, which only runs of this appliance know. */
async function serversOn(directory: string): Promise<number[]> {
  const pids: number[] = [];
  for (const name of await namesIn('/proc')) {
    if (!PROCESS_ID.test(name)) continue;
    const words = await commandLine(name);
    const socket = words[words.indexOf('--socket') + 1];
    const isServer = words.some((word) => basename(word) === 'qemu-nbd') && words.includes('--socket');
    if (isServer && socket !== undefined && dirname(socket) === directory) pids.push(Number(name));
  }
  return pids;
}

async function commandLine(pid: string): Promise<string[]> {
  try {
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
  } catch (error) {
    // It ended meanwhile, or is none of ours to look at.
    if (['ENOENT', 'ESRCH', 'EACCES', 'EPERM'].includes(systemErrorCode(error) ?? '')) return [];
    throw storageError(error, 'read the command line of process', pid);
  }
}

async function endProcess(pid: number): Promise<void> {
  const deadline = systemClock.elapsedMs() + END_LIMIT_MS;
  for (;;) {
    try {
      process.kill(pid, systemClock.elapsedMs() > deadline ? 'SIGKILL' : 'SIGTERM');
    } catch (error) {
      if (systemErrorCode(error) === 'ESRCH') return;
      throw storageError(error, 'end process', String(pid));
    }
    await delay(POLL_MS);
  }
}

async function namesIn(directory: string, unlistable: readonly string[] = ['ENOENT']): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (unlistable.includes(systemErrorCode(error) ?? '')) return [];
    throw storageError(error, 'list', directory);
  }
}

async function remove(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
  } catch (error) {
    throw storageError(error, 'remove', path);
  }
}
