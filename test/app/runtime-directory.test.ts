// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { chmod, chown, mkdir, stat, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { prepareRuntimeDirectory } from '../../appliance/app/runtime-directory.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('the directory of the sockets');
const SOMEBODY = 54_321;

test('is made so that others can pass through, and is taken again', async (t) => {
  const path = join(await t.tempDir(), 'run');
  assert.equal(await prepareRuntimeDirectory(path), path);
  assert.equal(await prepareRuntimeDirectory(path), path);
  assert.equal((await stat(path)).mode % 0o1000, 0o711);
});

test('is refused when others may write to it, or when it is a link', async (t) => {
  const directory = await t.tempDir();
  const open = join(directory, 'open');
  await mkdir(open);
  await chmod(open, 0o777);
  await rejectsWith(prepareRuntimeDirectory(open), 'IO_FAILED');
  const mine = join(directory, 'mine');
  await mkdir(mine, { mode: 0o700 });
  await symlink(mine, join(directory, 'link'));
  await rejectsWith(prepareRuntimeDirectory(join(directory, 'link')), 'IO_FAILED');
});

test('is refused when it belongs to somebody else', async (t) => {
  const path = join(await t.tempDir(), 'foreign');
  await mkdir(path, { mode: 0o700 });
  const isRoot = process.getuid?.() === 0;
  // Only root can give directories away; for everybody else root's own will do.
  if (isRoot) await chown(path, SOMEBODY, SOMEBODY);
  await rejectsWith(prepareRuntimeDirectory(isRoot ? path : '/usr'), 'IO_FAILED');
});
