// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { endOfFile, lockExclusively, nextData, nextHole, zeroRange } from '../../appliance/core/libc.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const MIB = 1024 * 1024;

/** A file of 8 MiB that holds data from 2 MiB to 3 MiB, and nothing else. */
async function sparseFile(t: TestContext): Promise<FileHandle> {
  const file = t.use(await open(join(await t.tempDir(), 'sparse'), 'w+'));
  await file.truncate(8 * MIB);
  await file.write(Buffer.alloc(MIB, 0x5a), 0, MIB, 2 * MIB);
  await file.sync();
  return file;
}

const test = suite('libc');

test('data and holes of a sparse file are found, and after the last data there is none', async (t) => {
  const { fd } = await sparseFile(t);
  assert.equal(await nextData(fd, 0), 2 * MIB);
  assert.equal(await nextHole(fd, 0), 0);
  assert.equal(await nextHole(fd, 2 * MIB), 3 * MIB);
  assert.equal(await nextData(fd, 3 * MIB), undefined);
});

test('the end of a file is its size, and a search from there finds nothing', async (t) => {
  const { fd } = await sparseFile(t);
  assert.equal(await endOfFile(fd), 8 * MIB);
  assert.equal(await nextData(fd, 8 * MIB), undefined);
  assert.equal(await nextHole(fd, 8 * MIB), undefined);
});

test('offsets beyond 32 bits arrive whole', async (t) => {
  const file = t.use(await open(join(await t.tempDir(), 'far'), 'w+'));
  const far = 5 * 1024 * MIB;
  await file.write(Buffer.alloc(4096, 1), 0, 4096, far);
  assert.equal(await nextData(file.fd, 4096), far);
  assert.equal(await endOfFile(file.fd), far + 4096);
});

test('punching frees storage, keeps the size, and leaves neighbours alone', async (t) => {
  const file = await sparseFile(t);
  const before = (await file.stat()).blocks;
  await zeroRange(file.fd, 'punch', { offset: 2 * MIB, length: MIB / 2 });
  const { buffer } = await file.read(Buffer.alloc(MIB), 0, MIB, 2 * MIB);
  assert.deepEqual(buffer, Buffer.concat([Buffer.alloc(MIB / 2), Buffer.alloc(MIB / 2, 0x5a)]));
  const after = await file.stat();
  assert.equal(after.size, 8 * MIB);
  assert.ok(after.blocks < before);
});

test('failures carry the code and the name of the call, as those of Node do', async (t) => {
  const file = await sparseFile(t);
  const { fd } = file;
  await file.close();
  await assert.rejects(nextData(fd, 0), { code: 'EBADF', syscall: 'lseek' });
  await assert.rejects(zeroRange(fd, 'punch', { offset: 0, length: 4096 }), { code: 'EBADF', syscall: 'fallocate' });
  assert.throws(() => lockExclusively(fd), { code: 'EBADF', syscall: 'flock' });
});

test('a lock belongs to one opening of the file, and is free again when that is closed', async (t) => {
  const path = join(await t.tempDir(), 'lock');
  const first = await open(path, 'w');
  const second = t.use(await open(path, 'r+'));
  lockExclusively(first.fd);
  assert.throws(() => lockExclusively(second.fd), { code: 'EAGAIN', syscall: 'flock' });
  await first.close();
  lockExclusively(second.fd);
});
