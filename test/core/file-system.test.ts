// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { realFileSystem } from '../../appliance/core/file-system.ts';
import { suite } from '../support/suite.ts';

const test = suite('file system');

test('a few bytes are written before the call returns, in their place', async (t) => {
  const path = join(await t.tempDir(), 'file');
  const file = t.use(await realFileSystem.open(path, 'create'));
  await file.write(Buffer.from('----------'), 0);
  assert.equal(file.writeNow?.(Buffer.from('now'), 4), true);
  assert.equal(await readFile(path, 'utf8'), '----now---');
});

test('many bytes are left to the call that does not hold up the process', async (t) => {
  const path = join(await t.tempDir(), 'file');
  const file = t.use(await realFileSystem.open(path, 'create'));
  assert.equal(file.writeNow?.(Buffer.alloc(1024 * 1024, 1), 0), false);
  assert.equal(await file.sizeBytes(), 0);
});

test('a short write to a file that cannot take it fails with the code of the operating system', async (t) => {
  const path = join(await t.tempDir(), 'file');
  const created = await realFileSystem.open(path, 'create');
  await created.close();
  assert.throws(() => created.writeNow?.(Buffer.from('late'), 0), { code: 'EBADF' });
  const readOnly = t.use(await realFileSystem.open(path, 'read'));
  assert.throws(() => readOnly.writeNow?.(Buffer.from('no'), 0), { code: 'EBADF' });
});
