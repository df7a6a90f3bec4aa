// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { storageError } from './file-system.ts';

/** How long this host has been up, which no setting of a clock changes. */
export interface HostUptime {
  /** Another one after each start of the kernel. */
  readonly bootId: string;
  /** Since that start, suspension included (CLOCK_BOOTTIME). */
  readonly uptimeMs: number;
}

const BOOT_ID_PATH = '/proc/sys/kernel/random/boot_id';
const UPTIME_PATH = '/proc/uptime';

/** As the kernel says it: proc(5). @throws ApplianceError IO_FAILED */
export function hostUptime(): HostUptime {
  const bootId = readText(BOOT_ID_PATH).trim();
  const uptimeMs = Math.floor(Number(readText(UPTIME_PATH).split(' ')[0]) * 1000);
  if (!Number.isSafeInteger(uptimeMs)) throw storageError(new Error('it holds no number'), 'read', UPTIME_PATH);
  return { bootId, uptimeMs };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw storageError(error, 'read', path);
  }
}
