// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { suite } from '../support/suite.ts';

const test = suite('a restore that is killed');
const VICTIM = join(import.meta.dirname, 'restore-victim.ts');

for (const name of ['disk.raw', 'disk.qcow2']) {
  test(
    `leaves no ${name} that could be taken for the disk`,
    async (t) => {
      const directory = await t.tempDir();
      const targets = await t.tempDir();
      const victim = spawn(process.execPath, [VICTIM, directory, join(targets, name)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const exited = once(victim, 'exit');
      const [first] = (await once(victim.stdout.setEncoding('utf8'), 'data')) as [string];
      victim.kill('SIGKILL');
      const [, signal] = (await exited) as [number | null, NodeJS.Signals | null];
      assert.match(first, /^writing\n/);
      assert.equal(signal, 'SIGKILL');
      const left = await readdir(targets);
      assert.equal(left.length, 1);
      assert.match(left[0] ?? '', /^\.temporary-[0-9a-f]{16}$/);
    },
    { requires: ['qemu-img'] },
  );
}
