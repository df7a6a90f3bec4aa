// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, readdir, readFile, symlink, unlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { createWholeFile } from '../../appliance/recover/new-file.ts';
import { removeDeadFiles, UnfinishedFile } from '../../appliance/recover/unfinished-file.ts';
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
      const left = (await readdir(targets)).sort();
      assert.match(left[0] ?? '', /^\.temporary-[0-9a-f]{16}$/);
      assert.deepEqual(left, [left[0], `${left[0]}.owner`]);
      // What nobody locks any more is dead; what has no owner may be anybody's.
      await writeFile(join(targets, `.temporary-${'0'.repeat(16)}`), '');
      await using other = await UnfinishedFile.reserve(targets);
      await writeFile(other.path, 'being written');
      const notices: string[] = [];
      const write = (path: string): Promise<void> => writeFile(path, 'whole');
      await createWholeFile(join(targets, 'next'), (sentence) => notices.push(sentence), write);
      const stays = [`.temporary-${'0'.repeat(16)}`, basename(other.path), `${basename(other.path)}.owner`, 'next'];
      assert.deepEqual((await readdir(targets)).sort(), stays.sort());
      assert.equal(notices.length, 1);
      assert.match(notices[0] ?? '', new RegExp(`${left[0]} was removed`));
    },
    { requires: ['qemu-img'] },
  );
}

test('a link in the place of an owner, and a directory that others can write to, are left alone', async (t) => {
  const directory = await t.tempDir();
  const precious = join(directory, 'precious');
  await writeFile(precious, 'content');
  const unfinished = join(directory, `.temporary-${'a'.repeat(16)}`);
  await writeFile(unfinished, '');
  await symlink(precious, `${unfinished}.owner`);
  assert.deepEqual(await removeDeadFiles(directory), []);
  assert.equal(await readFile(precious, 'utf8'), 'content');
  await unlink(`${unfinished}.owner`);
  await writeFile(`${unfinished}.owner`, '');
  await chmod(directory, 0o777);
  assert.deepEqual(await removeDeadFiles(directory), []);
  await chmod(directory, 0o1777);
  assert.deepEqual(await removeDeadFiles(directory), [unfinished]);
  assert.deepEqual(await readdir(directory), ['precious']);
});
