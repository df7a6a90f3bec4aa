// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { systemErrorCode } from '../../appliance/core/errors.ts';

const POLL_MS = 5;

/**
 * Stops a process (SIGSTOP), and settles when none of its threads runs any more: on a busy machine they do for a while after the
 * signal. SIGCONT lets it go on.
 */
export async function stopProcess(pid: number | undefined): Promise<void> {
  if (pid === undefined) throw new Error('the process could not be started');
  process.kill(pid, 'SIGSTOP');
  while (!isStopped(pid)) await delay(POLL_MS);
}

/** proc_pid_stat(5): the state follows the name, which stands in parentheses and may hold any character. */
function isStopped(pid: number): boolean {
  return readdirSync(`/proc/${pid}/task`).every((thread) => {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'latin1');
    return 'TtZX'.includes(stat.charAt(stat.lastIndexOf(')') + 2));
  });
}

/** Not a process that has ended and only waits for somebody to ask for its exit code. */
export function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(systemErrorCode(error) ?? '')) return false;
    throw error;
  }
}
