// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { QemuNbd } from '../../appliance/hypervisor/qemu-nbd.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { exportUri } from '../../appliance/recover/point-exports.ts';
import { resolveTarget, restoreDisk } from '../../appliance/recover/restore-disk.ts';
import type { RestoredTarget, RestoreFormat } from '../../appliance/recover/restore-request.ts';
import { StateDisks } from '../../appliance/recover/state-disks.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { makeRig, noise, patternedDisk, type Rig, readAll, tool, Watched } from './fixture.ts';

const test = suite('restore of a disk');
const MIB = 1024 * 1024;
const SIZE = 16 * MIB;
/** Chunks that `patternedDisk` touches: 1 MiB and 4 KiB at the start, one in the middle, one at the end. */
const DATA_BYTES = 19 * 65_536;

interface Restorable extends Rig {
  readonly disk: BlockDevice;
  readonly point: RecoveryPoint;
  /** The content as a raw file, for other programs. */
  readonly original: string;
  readonly watched: Watched;
  readonly restore: (to: string, format?: RestoreFormat) => Promise<RestoredTarget>;
}

async function restorable(t: TestContext, sizeBytes: number = SIZE): Promise<Restorable> {
  const rig = await makeRig(t);
  const disk = await patternedDisk(sizeBytes, 7);
  const point = await rig.fixture.addPoint({ disks: { vda: disk } });
  const original = join(rig.directory, 'original.raw');
  await writeFile(original, await readAll(disk));
  const watched = new Watched();
  const restore = async (to: string, format?: RestoreFormat): Promise<RestoredTarget> => {
    const [only] = point.disks;
    assert.ok(only);
    const target = await resolveTarget(to, format);
    await using disks = await StateDisks.open(rig.parts, { point });
    return await restoreDisk({ parts: rig.parts, disks, disk: only, target, context: watched });
  };
  return { ...rig, disk, point, original, watched, restore };
}

for (const format of ['raw', 'qcow2', 'vmdk'] as const) {
  test(
    `a restore to ${format} holds the content of the point`,
    async (t) => {
      const { directory, original, restore, watched } = await restorable(t);
      const to = join(directory, `restored.${format}`);
      const result = await restore(to);
      assert.deepEqual(result, { disk: 'vda', to, sizeBytes: SIZE, writtenBytes: DATA_BYTES });
      const compared = await tool('qemu-img', 'compare', '-f', 'raw', '-F', format, original, to);
      assert.match(compared, /identical/);
      assert.equal(watched.progress.at(-1)?.done, SIZE);
      assert.ok(watched.progress.every((progress) => progress.total === SIZE && progress.phase === 'restoring vda'));
      assert.deepEqual(
        (await readdir(directory)).filter((name) => name.startsWith('.temporary')),
        [],
      );
    },
    { requires: ['qemu-img'] },
  );
}

test('the format given wins over the extension', async (t) => {
  assert.deepEqual(await resolveTarget('/x/disk.qcow2', 'raw'), { kind: 'file', path: '/x/disk.qcow2', format: 'raw' });
  assert.deepEqual(await resolveTarget('/x/disk.img', undefined), { kind: 'file', path: '/x/disk.img', format: 'raw' });
  assert.deepEqual(await resolveTarget('nbd+unix:///?socket=/s', undefined), {
    kind: 'nbd',
    uri: 'nbd+unix:///?socket=/s',
  });
  await assert.rejects(resolveTarget('nbd://host', 'qcow2'), { code: 'BAD_ARGUMENT' });
  assert.ok(t.signal);
});

test('a raw restore has the exact size of the disk and holes where the disk has them', async (t) => {
  const odd = 9 * MIB + 77;
  const { directory, disk, restore } = await restorable(t, odd);
  const to = join(directory, 'restored');
  await restore(to);
  const found = await stat(to);
  assert.equal(found.size, odd);
  assert.ok(found.blocks * 512 < 3 * MIB, `${found.blocks * 512} bytes are allocated`);
  assert.ok((await readFile(to)).equals(await readAll(disk)));
});

test('an existing file is never replaced', async (t) => {
  const { directory, restore } = await restorable(t);
  const to = join(directory, 'there');
  await writeFile(to, 'precious');
  await symlink('/nonexistent', join(directory, 'dangling'));
  for (const name of ['there', 'dangling', '']) {
    await assert.rejects(restore(join(directory, name)), { code: 'TARGET_EXISTS' }, name);
  }
  assert.equal(await readFile(to, 'utf8'), 'precious');
});

test('a file that appears during the restore is not replaced either', async (t) => {
  const { directory, restore, watched } = await restorable(t);
  const to = join(directory, 'raced');
  let writing: Promise<void> | undefined;
  watched.onEach = () => {
    writing ??= writeFile(to, 'precious');
  };
  await assert.rejects(restore(to), { code: 'TARGET_EXISTS' });
  await writing;
  assert.equal(await readFile(to, 'utf8'), 'precious');
  assert.deepEqual(
    (await readdir(directory)).filter((name) => name.startsWith('.temporary')),
    [],
  );
});

test('a directory that is not there is an error, and is not made', async (t) => {
  const { directory, restore } = await restorable(t);
  await assert.rejects(restore(join(directory, 'missing', 'disk.raw')), { code: 'IO_FAILED' });
  assert.equal((await readdir(directory)).includes('missing'), false);
});

for (const format of ['raw', 'qcow2'] as const) {
  test(
    `an aborted restore to ${format} leaves no file`,
    async (t) => {
      const { directory, fixture, parts, watched } = await restorable(t);
      const big = memoryDevice({ sizeBytes: 64 * MIB });
      for (let at = 0; at < 64; at += 1) await big.write(at * MIB, noise(MIB, at + 1));
      const point = await fixture.addPoint({ disks: { vda: big } });
      const [disk] = point.disks;
      assert.ok(disk);
      const before = (await readdir(directory)).sort();
      watched.onEach = ({ done }) => {
        if (done >= 2 * MIB) watched.abort.abort();
      };
      const target = await resolveTarget(join(directory, 'big'), format);
      await using disks = await StateDisks.open(parts, { point });
      await assert.rejects(restoreDisk({ parts, disks, disk, target, context: watched }), { code: 'ABORTED' });
      assert.deepEqual((await readdir(directory)).sort(), before);
      assert.deepEqual(parts.nbd.exports(), []);
    },
    { requires: ['qemu-img'] },
  );
}

test(
  'a restore to an NBD target overwrites what was there, zeroes included',
  async (t) => {
    const { directory, disk, restore, original } = await restorable(t);
    const path = join(directory, 'target.qcow2');
    const socketPath = join(directory, 'target.sock');
    await tool('qemu-img', 'create', '-q', '-f', 'qcow2', path, String(SIZE + MIB));
    await tool('qemu-io', '-f', 'qcow2', '-c', `write -P 0xaa 0 ${SIZE + MIB}`, path);
    const server = t.use(await QemuNbd.start({ path, format: 'qcow2', socketPath, exportName: 'x', isWritable: true }));
    const to = `nbd+unix:///x?socket=${socketPath}`;
    const result = await restore(to);
    assert.deepEqual(result, { disk: 'vda', to, sizeBytes: SIZE, writtenBytes: SIZE });
    await server.close();
    const raw = join(directory, 'target.raw');
    await tool('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', path, raw);
    const bytes = await readFile(raw);
    assert.ok(bytes.subarray(0, SIZE).equals(await readAll(disk)));
    assert.ok(bytes.subarray(SIZE).equals(Buffer.alloc(MIB, 0xaa)), 'what lies beyond the disk stays');
    assert.ok((await readFile(original)).equals(bytes.subarray(0, SIZE)));
  },
  { requires: ['qemu-nbd', 'qemu-img', 'qemu-io'] },
);

test('a target that is too small is refused before a byte is written', async (t) => {
  const { directory, restore } = await restorable(t);
  const small = memoryDevice({ sizeBytes: SIZE - 512 });
  await small.write(0, Buffer.alloc(512, 0x55));
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: join(directory, 'small.sock') } }));
  server.addExport({ name: 'small', device: small });
  await assert.rejects(restore(exportUri(server.address, 'small')), { code: 'TARGET_TOO_SMALL' });
  const first = Buffer.alloc(512);
  await small.read(0, first);
  assert.ok(first.equals(Buffer.alloc(512, 0x55)));
});

test('a target that runs out of space fails the restore', async (t) => {
  const { directory, restore } = await restorable(t);
  const socket = join(directory, 'full.sock');
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: socket } }));
  const full = memoryDevice({ sizeBytes: SIZE });
  const write = full.write.bind(full);
  full.write = async (offset, data, options) => {
    if (offset > MIB) throw Object.assign(new Error('ENOSPC: full'), { code: 'ENOSPC' });
    await write(offset, data, options);
  };
  server.addExport({ name: 'full', device: full });
  await assert.rejects(restore(exportUri(server.address, 'full')), { code: 'NO_SPACE' });
});

test('a point with a damaged chunk is not restored, and says so', async (t) => {
  const { directory, fixture, restore } = await restorable(t);
  const packs = join(directory, 'repository', 'packs');
  for (const folder of await readdir(packs)) {
    for (const name of await readdir(join(packs, folder))) {
      const path = join(packs, folder, name);
      const bytes = await readFile(path);
      for (let at = 200; at < bytes.length; at += 997) bytes.writeUInt8((bytes.readUInt8(at) + 1) % 256, at);
      await writeFile(path, bytes);
    }
  }
  fixture.repository.reader.dropCaches();
  await assert.rejects(restore(join(directory, 'restored.raw')), { code: 'REPOSITORY_CORRUPT' });
  assert.deepEqual(
    (await readdir(directory)).filter((name) => /restored|temporary/.test(name)),
    [],
  );
});
