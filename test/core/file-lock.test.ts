// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { FileLock } from '../../appliance/core/file-lock.ts';
import { suite } from '../support/suite.ts';

const test = suite('file lock');

test('a lock is refused while it is held and free after release', async (t) => {
  const path = join(await t.tempDir(), 'lock');
  const lock = await FileLock.acquire(path);
  await assert.rejects(FileLock.acquire(path), (error) => hasCode(error, 'LOCKED'));
  await lock.release();
  await lock.release();
  await using again = await FileLock.acquire(path);
  assert.equal(again.path, path);
});

test('a lock of another process is refused with its process id, and is gone when that process is killed', async (t) => {
  const path = join(await t.tempDir(), 'lock');
  for (let round = 0; round < 3; round++) {
    const child = await holder(path);
    t.use({ close: () => void child.kill('SIGKILL') });
    await assert.rejects(FileLock.acquire(path), (error) => {
      assert.ok(error instanceof ApplianceError);
      assert.deepEqual([error.code, error.details], ['LOCKED', { path, pid: child.pid }]);
      return true;
    });
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
    await (await FileLock.acquire(path)).release();
  }
});

test('foreign content of the lock file is not taken for a process id', async (t) => {
  const path = join(await t.tempDir(), 'lock');
  const child = await holder(path);
  t.use({ close: () => void child.kill('SIGKILL') });
  await writeFile(path, 'not a number');
  await assert.rejects(FileLock.acquire(path), (error) => {
    assert.ok(error instanceof ApplianceError);
    assert.deepEqual([error.code, error.details], ['LOCKED', { path }]);
    return true;
  });
});

test('a missing directory is an error that names the path', async (t) => {
  const path = join(await t.tempDir(), 'missing', 'lock');
  await assert.rejects(FileLock.acquire(path), (error) => {
    assert.ok(error instanceof ApplianceError);
    assert.deepEqual([error.code, error.details], ['IO_FAILED', { path, systemCode: 'ENOENT' }]);
    return true;
  });
});

/** A child process that holds the lock until it is killed. */
async function holder(path: string): Promise<ChildProcess> {
  const script = `
    import { FileLock } from ${JSON.stringify(new URL('../../appliance/core/file-lock.ts', import.meta.url).href)};
    await FileLock.acquire(${JSON.stringify(path)});
    process.stdout.write('held');
    setInterval(() => undefined, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  return child;
}
