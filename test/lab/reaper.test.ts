// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { reapedPid, withReaper } from '../../lab/reaper.ts';
import { suite } from '../support/suite.ts';

const test = suite('reaper of orphans');

test(
  'what a command leaves behind has the reaper for its parent, and the command ends with the reaper',
  async (t) => {
    const leave = "(sh -c 'echo $$; exec sleep 0.3' &); exec sleep 60";
    const [command = '', ...args] = withReaper(['sh', '-c', leave]);
    const reaper = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    t.use({ [Symbol.dispose]: () => void reaper.kill('SIGKILL') });
    const [text] = (await once(reaper.stdout, 'data')) as [Buffer];
    const [orphan, pid] = [Number(text.toString()), reaper.pid ?? 0];
    await until(() => parentOf(orphan) === pid || parentOf(orphan) === undefined);
    await until(() => parentOf(orphan) === undefined);
    await until(() => reapedPid(pid, 'sleep') !== pid);
    const sleeper = reapedPid(pid, 'sleep');
    assert.equal(parentOf(sleeper), pid);
    reaper.kill('SIGKILL');
    await once(reaper, 'exit');
    await until(() => !isRunning(sleeper));
  },
  { requires: ['perl'] },
);

test('a command that ends well or badly ends its reaper so', async () => {
  for (const code of [0, 1]) {
    const [command = '', ...args] = withReaper(['sh', '-c', `exit ${code}`]);
    const reaper = spawn(command, args, { stdio: 'ignore' });
    assert.deepEqual(await once(reaper, 'exit'), [code, null]);
  }
});

/** Undefined when there is no such process, not even one that nobody has taken notice of. */
function parentOf(pid: number): number | undefined {
  const match = /^PPid:\s+(\d+)$/m.exec(statusOf(pid));
  return match === null ? undefined : Number(match[1]);
}

function isRunning(pid: number): boolean {
  return /^State:\s+[^Z]/m.test(statusOf(pid));
}

function statusOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8');
  } catch {
    // It is gone.
    return '';
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}
