// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemErrorCode } from '../../appliance/core/errors.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { findAttachment, selectDisk } from '../../appliance/recover/point-content.ts';
import { PointExports } from '../../appliance/recover/point-exports.ts';
import { PointUse } from '../../appliance/recover/point-use.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { makeRig, noise, patternedDisk, type Rig, readAll, tool } from './fixture.ts';

const test = suite('exports of recovery points');
const MIB = 1024 * 1024;
const SIZE = 8 * MIB + 700;

async function exportRig(t: TestContext): Promise<Rig & { use: PointUse; exports: PointExports }> {
  const rig = await makeRig(t);
  const use = new PointUse(rig.fixture.repository);
  return { ...rig, use, exports: t.use(new PointExports(rig.parts, use)) };
}

test(
  'an export shows exactly the content of the point to other NBD clients',
  async (t) => {
    const { fixture, exports, directory } = await exportRig(t);
    const disk = await patternedDisk(SIZE, 1);
    const point = await fixture.addPoint({ disks: { vda: disk } });
    const report = await exports.export({ point });
    assert.equal(report.id, `${point.id.slice(0, 8)}-vda`);
    assert.equal(report.disk, 'vda');
    assert.equal(report.sizeBytes, SIZE);
    assert.equal(report.writable, false);
    const size = await tool('nbdinfo', '--size', report.uri);
    assert.equal(Number(size), SIZE);
    const copy = join(directory, 'copy.raw');
    await tool('nbdcopy', report.uri, copy);
    assert.ok((await readFile(copy)).equals(await readAll(disk)));
  },
  { requires: ['nbdinfo', 'nbdcopy'] },
);

test('a read-only export refuses writes', async (t) => {
  const { fixture, exports } = await exportRig(t);
  const point = await fixture.addPoint({ disks: { vda: await patternedDisk(SIZE, 1) } });
  const { uri } = await exports.export({ point });
  const client = t.use(await connectNbd(uri));
  assert.equal(client.features.isReadOnly, true);
  await assert.rejects(client.write(0, Buffer.alloc(512)), { code: 'READ_ONLY' });
});

test('a writable export takes writes, and the point stays as it was', async (t) => {
  const { fixture, exports, directory } = await exportRig(t);
  const disk = await patternedDisk(SIZE, 2);
  const point = await fixture.addPoint({ disks: { vda: disk } });
  const writable = await exports.export({ point, writable: true });
  const untouched = await exports.export({ point });
  assert.equal(untouched.id, `${writable.id}-2`);
  const client = t.use(await connectNbd(writable.uri));
  const data = noise(100_000, 9);
  await client.write(65_000, data);
  await client.zero({ offset: 0, length: 1000 });
  await client.flush();
  const expected = await readAll(disk);
  data.copy(expected, 65_000);
  expected.fill(0, 0, 1000);
  assert.ok((await readAll(client)).equals(expected));
  const other = t.use(await connectNbd(untouched.uri));
  assert.ok((await readAll(other)).equals(await readAll(disk)));
  assert.equal((await readdir(join(directory, 'exports'))).length, 1);
  await exports.unexport(writable.id);
  assert.deepEqual(await readdir(join(directory, 'exports')), []);
});

test('an export is in the way of deleting its point until it ends', async (t) => {
  const { fixture, exports, use } = await exportRig(t);
  const point = await fixture.addPoint({ disks: { vda: await patternedDisk(SIZE, 1) } });
  const other = await fixture.addPoint({ disks: { vda: await patternedDisk(SIZE, 2) } });
  const { id, uri } = await exports.export({ point });
  assert.deepEqual(use.usedBy(point.id), [`export ${id}`]);
  assert.deepEqual(use.usedBy(other.id), []);
  assert.deepEqual(
    use.heldPoints().map((held) => held.id),
    [point.id],
  );
  await exports.unexport(id);
  assert.deepEqual(use.usedBy(point.id), []);
  assert.deepEqual(use.heldPoints(), []);
  await assert.rejects(connectNbd(uri, { reconnect: false }), { code: 'NBD_EXPORT_UNKNOWN' });
  await assert.rejects(exports.unexport(id), { code: 'NBD_EXPORT_UNKNOWN' });
});

test(
  'an export on a socket of its own is the default export there, and the socket goes with it',
  async (t) => {
    const { fixture, exports, directory } = await exportRig(t);
    const disk = await patternedDisk(SIZE, 3);
    const point = await fixture.addPoint({ disks: { vda: disk } });
    const socket = join(directory, 'own.sock');
    const { id, uri } = await exports.export({ point, socket });
    assert.equal(uri, `nbd+unix:///?socket=${socket}`);
    const raw = join(directory, 'copy.raw');
    await tool('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', `nbd:unix:${socket}`, raw);
    assert.ok((await readFile(raw)).subarray(0, SIZE).equals(await readAll(disk)));
    await exports.unexport(id);
    const missing = await readFile(socket).catch((error: unknown) => systemErrorCode(error));
    assert.equal(missing, 'ENOENT');
  },
  { requires: ['qemu-img'] },
);

test('an export can listen on any free TCP port', async (t) => {
  const { fixture, exports } = await exportRig(t);
  const disk = await patternedDisk(SIZE, 4);
  const point = await fixture.addPoint({ disks: { vda: disk } });
  const { uri } = await exports.export({ point, listen: '127.0.0.1:0' });
  assert.match(uri, /^nbd:\/\/127\.0\.0\.1:[1-9]\d*\/$/);
  const client = t.use(await connectNbd(uri));
  assert.ok((await readAll(client)).equals(await readAll(disk)));
});

test('an export that cannot listen leaves nothing behind', async (t) => {
  const { fixture, exports, use, directory } = await exportRig(t);
  const point = await fixture.addPoint({ disks: { vda: await patternedDisk(SIZE, 1) } });
  const socket = join(directory, 'taken');
  await writeFile(socket, 'not a socket');
  await assert.rejects(exports.export({ point, socket, writable: true }), { code: 'NBD_LISTEN_FAILED' });
  assert.deepEqual(use.heldPoints(), []);
  assert.deepEqual(exports.list(), []);
  assert.deepEqual(await readdir(join(directory, 'exports')), []);
  assert.equal(await readFile(socket, 'utf8'), 'not a socket');
});

test('nonsense in the request is refused', async (t) => {
  const { fixture, exports } = await exportRig(t);
  const vda = await patternedDisk(SIZE, 1);
  const point = await fixture.addPoint({ disks: { vda, vdb: vda } });
  await assert.rejects(exports.export({ point }), { code: 'BAD_ARGUMENT' });
  await assert.rejects(exports.export({ point, disk: 'vdc' }), { code: 'DISK_NOT_FOUND' });
  for (const listen of ['nowhere', ':10809', 'host:99999', '[nonsense]:1', '1.2.3.4']) {
    await assert.rejects(exports.export({ point, disk: 'vda', listen }), { code: 'BAD_ARGUMENT' }, listen);
  }
  await assert.rejects(exports.export({ point, disk: 'vda', listen: '[::1]:0', socket: '/x' }), {
    code: 'BAD_ARGUMENT',
  });
});

test('write logs of a killed process are removed at the next start', async (t) => {
  const { exports, directory } = await exportRig(t);
  await mkdir(join(directory, 'exports', 'abcd'), { recursive: true });
  await writeFile(join(directory, 'exports', 'abcd', 'segment-0000000001.log'), 'x');
  await exports.removeLeftovers();
  assert.deepEqual((await readdir(directory)).includes('exports'), false);
});

test('attachments come back as they were, of any length', async (t) => {
  const { fixture } = await exportRig(t);
  const attachments = {
    'domain.xml': Buffer.from('<domain/>'),
    nvram: noise(540_672, 5),
    empty: Buffer.alloc(0),
    zeroes: Buffer.alloc(200_000),
  };
  const point = await fixture.addPoint({ disks: { vda: await patternedDisk(SIZE, 1) }, attachments });
  for (const [name, bytes] of Object.entries(attachments)) {
    assert.ok((await findAttachment(fixture.repository, point, name))?.equals(bytes), name);
  }
  assert.equal(await findAttachment(fixture.repository, point, 'tpm'), undefined);
  assert.equal(selectDisk(point, undefined).name, 'vda');
});
