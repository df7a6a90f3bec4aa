// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { compareDevices } from '../../appliance/block/compare-devices.ts';
import { walkExtents } from '../../appliance/block/extent-walk.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import type { BackupSource } from '../../appliance/cbt/source.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { parseMachineId } from '../../appliance/core/ids.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { runBackup } from '../../appliance/protect/backup-run.ts';
import { FaultyDevice } from '../support/faulty-device.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import { BackupRig } from './backup-rig.ts';

const test = suite('backup of an NBD export');
const CHUNK = 64 * 1024;

function fill(device: BlockDevice, offset: number, length: number, byte: number): Promise<void> {
  return device.write(offset, Buffer.alloc(length, byte));
}

test('a second backup stores only what differs, zeroes included, and each point stays what it was', async (t) => {
  const backups = await BackupRig.create(t);
  const dir = await t.tempDir();
  const path = join(dir, 's');
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const sizeBytes = 40 * CHUNK + 512;
  const disk = memoryDevice({ sizeBytes });
  server.addExport({ name: 'physical', device: disk });
  const uri = `nbd+unix:///physical?socket=${path}`;
  await fill(disk, 0, 10 * CHUNK, 1);
  await fill(disk, 40 * CHUNK, 512, 9);
  const before = memoryDevice({ sizeBytes });
  await fill(before, 0, 10 * CHUNK, 1);
  await fill(before, 40 * CHUNK, 512, 9);
  const first = await backups.backup(uri);
  assert.equal(first.point.machine.name, 'physical');
  assert.equal(first.point.kind, 'full');
  await disk.zero({ offset: 2 * CHUNK, length: 3 * CHUNK });
  await fill(disk, 20 * CHUNK + 100, 10, 7);
  const second = await backups.backup(uri);
  assert.equal(second.point.kind, 'full-scan');
  assert.equal(second.point.disks[0]?.stats.changedBytes, 4 * CHUNK);
  assert.equal(second.point.disks[0]?.stats.newChunkBytes, CHUNK);
  assert.equal(second.point.parent, first.point.id);
  assert.equal(await compareDevices(backups.device(second.point, 'disk'), disk), undefined);
  assert.equal(await compareDevices(backups.device(first.point, 'disk'), before), undefined);
});

test('a tracker that calls changed blocks unchanged is found out by the sample, and everything is scanned', async (t) => {
  const backups = await BackupRig.create(t);
  // One chunk: the sample cannot miss it.
  const disk = memoryDevice({ sizeBytes: CHUNK });
  await fill(disk, 0, CHUNK, 1);
  const source = (kind: 'full' | 'incremental'): BackupSource => ({
    machine: { id: parseMachineId('0b1c2d3e-4f50-4617-8899-aabbccddeeff'), name: 'liar' },
    takenAtMs: 0,
    consistency: 'crash-consistent',
    disks: [
      {
        name: 'vda',
        device: disk,
        kind,
        reason: 'the tracker says so',
        identity: {},
        changes: async function* () {
          if (kind === 'full') yield* walkExtents(disk, { offset: 0, length: CHUNK });
        },
      },
    ],
    skipped: [],
    attachments: [],
    tracker: {},
    notices: [],
    assertAlive: async () => undefined,
    commit: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  });
  const run = (
    kind: 'full' | 'incremental',
    previous: Parameters<typeof runBackup>[0]['previous'],
  ): ReturnType<typeof runBackup> =>
    runBackup({
      repository: backups.fixture.repository,
      catalog: backups.fixture.catalog,
      clock: systemClock,
      source: source(kind),
      previous,
      startedAtMs: 0,
      signal: new AbortController().signal,
      onProgress: () => undefined,
      onNotice: () => undefined,
    });
  const first = await run('full', undefined);
  await fill(disk, 0, CHUNK, 2);
  const second = await run('incremental', first);
  assert.equal(second.kind, 'full-scan');
  assert.match(second.reason, /called chunk 0 unchanged, but it had changed/);
  assert.equal(await compareDevices(backups.device(second, 'vda'), disk), undefined);
});

test('a source that dies in mid-backup leaves no point', async (t) => {
  const backups = await BackupRig.create(t);
  const path = join(await t.tempDir(), 's');
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const disk = memoryDevice({ sizeBytes: 512 * CHUNK });
  await fill(disk, 0, 512 * CHUNK, 3);
  let reads = 0;
  const dying = new FaultyDevice(disk, ({ operation }) => {
    if (operation === 'read') reads += 1;
    if (reads > 5) throw new Error('the medium is broken');
  });
  server.addExport({ name: 'x', device: dying });
  await rejectsWith(backups.backup(`nbd+unix:///x?socket=${path}`), 'NBD_SERVER_ERROR');
  assert.deepEqual(await backups.fixture.catalog.points(), []);
  assert.deepEqual(await backups.fixture.repository.manifests.list(), []);
});
