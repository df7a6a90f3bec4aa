// SPDX-License-Identifier: Apache-2.0
// time limit: 400 s
import assert from 'node:assert/strict';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { BackupReport } from '../../appliance/api/operations.ts';
import type { CheckReport, GcReport } from '../../appliance/api/schemas/repository.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { ApplianceProcess, assertSameBytes, errorOf } from '../support/appliance-process.ts';
import { DiskServer } from '../support/disk-server.ts';
import { Dice } from '../support/point-model.ts';
import { stopProcess } from '../support/process-state.ts';
import { MOUNT_REQUIREMENTS, SmallFileSystem } from '../support/small-file-system.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('full disks', { requires: MOUNT_REQUIREMENTS, timeoutMs: 120_000 });
const MIB = 1024 * 1024;
const DISK_BYTES: number = 8 * MIB;

interface Scene {
  readonly appliance: ApplianceProcess;
  readonly room: SmallFileSystem;
  readonly dice: Dice;
  readonly disk: DiskServer;
  readonly backupWords: readonly string[];
  /** Puts other content on the disk, none of which was there before. */
  readonly renew: () => Promise<Buffer>;
}

/** What lies on the small file system: everything, or only the repository, or only the state. */
async function makeScene(t: TestContext, small: 'both' | 'repository' | 'state', sizeBytes: number): Promise<Scene> {
  const directory = await t.tempDir();
  const room = t.use(await SmallFileSystem.mount(join(directory, 'small'), sizeBytes));
  const large = join(directory, 'large');
  await mkdir(large);
  const state = join(small === 'repository' ? large : room.path, 'state');
  const repository = join(small === 'state' ? large : room.path, 'repository');
  const appliance = new ApplianceProcess(t, state, repository);
  await appliance.ask('init', '--repository', repository);
  const dice = new Dice(5);
  let content = dice.bytes(DISK_BYTES);
  const disk = t.use(await DiskServer.start(join(directory, 'nbd'), content));
  const renew = async (): Promise<Buffer> => {
    content = dice.bytes(DISK_BYTES);
    await disk.write(content);
    return content;
  };
  return { appliance, room, dice, disk, renew, backupWords: ['backup', disk.uri, '--name', 'mail'] };
}

/** Backs up until there is no room, and returns the points with their contents. */
async function fillWithPoints({ appliance, renew, backupWords }: Scene): Promise<Map<string, Buffer>> {
  const points = new Map<string, Buffer>();
  for (let n = 0; n < 20; n++) {
    const content = await renew();
    const result = await appliance.run(...backupWords, '--json');
    if (result.exitCode !== 0) {
      const error = errorOf(result, 'NO_SPACE');
      assert.equal(error.exitCode, EXIT_CODES.noSpace);
      return points;
    }
    points.set((JSON.parse(result.stdout) as BackupReport).point, content);
  }
  throw new Error('there was always room');
}

async function assertPoints(appliance: ApplianceProcess, points: ReadonlyMap<string, Buffer>): Promise<void> {
  const listed = await appliance.points();
  assert.deepEqual(listed.map(({ id }) => id).sort(), [...points.keys()].sort());
  for (const { id } of listed) {
    assertSameBytes(await appliance.restored(id), points.get(id) ?? Buffer.alloc(0), `point ${id}`);
  }
}

/** Deletes the oldest point and collects on a disk without a free byte; then a backup has room again. */
async function assertRoomCanBeMade(scene: Scene, points: Map<string, Buffer>): Promise<void> {
  const { appliance, room, renew, backupWords } = scene;
  await room.fill();
  assert.ok((await room.freeBytes()) < 4096);
  const oldest = [...points.keys()][0] ?? '';
  const error = await appliance.refused('NO_SPACE', ...backupWords);
  assert.equal(error.exitCode, EXIT_CODES.noSpace);
  await appliance.ask('delete', oldest, '--yes', '--now');
  points.delete(oldest);
  const collected = await appliance.ask<GcReport>('gc', '--now');
  assert.ok(collected.freedBytes >= DISK_BYTES, `${collected.freedBytes} bytes were freed`);
  await room.release();
  const content = await renew();
  const { point } = await appliance.ask<BackupReport>(...backupWords);
  points.set(point, content);
  assert.equal((await appliance.ask<CheckReport>('check', '--read-data')).ok, true);
  assert.deepEqual(await readdir(join(appliance.repository, 'staging')), []);
}

test('a full repository: NO_SPACE, old points stay, and room can be made on the full disk', async (t) => {
  const scene = await makeScene(t, 'repository', 30 * MIB);
  const points = await fillWithPoints(scene);
  assert.ok(points.size >= 2);
  await assertPoints(scene.appliance, points);
  await assertRoomCanBeMade(scene, points);
  await assertPoints(scene.appliance, points);
});

test('state and repository on one full disk: NO_SPACE, old points stay, and room can be made', async (t) => {
  const scene = await makeScene(t, 'both', 40 * MIB);
  const points = await fillWithPoints(scene);
  assert.ok(points.size >= 2);
  await assertRoomCanBeMade(scene, points);
  await scene.room.release();
  await assertPoints(scene.appliance, points);
});

test('room can be made through a service on a disk that is full', async (t) => {
  const scene = await makeScene(t, 'both', 40 * MIB);
  const service = await scene.appliance.serve();
  const points = await fillWithPoints(scene);
  await assertRoomCanBeMade(scene, points);
  service.kill('SIGTERM');
  assert.equal((await service.result).exitCode, 0, service.stderr);
  await assertPoints(scene.appliance, points);
});

test('the disk of the state directory is full in mid-backup: no half point, and the next backup works', async (t) => {
  const scene = await makeScene(t, 'state', 32 * MIB);
  const { appliance, room, renew, backupWords } = scene;
  const first = await renew();
  const { point } = await appliance.ask<BackupReport>(...backupWords);
  await renew();
  const running = appliance.start(...backupWords, '--json');
  await appliance.untilStaged(running, MIB);
  await stopProcess(running.pid);
  await room.fill();
  running.kill('SIGCONT');
  const { exitCode, stdout } = await running.result;
  // The catalog's log may have had room in a page that it held: then the point is there, and whole.
  if (exitCode !== 0) errorOf({ exitCode, signal: null, stdout, stderr: '' }, 'NO_SPACE');
  await room.release();
  const listed = await appliance.points();
  assert.ok(listed.length <= 2);
  assertSameBytes(await appliance.restored(point), first, 'the first point');
  const content = await renew();
  const next = await appliance.ask<BackupReport>(...backupWords);
  assertSameBytes(await appliance.restored(next.point), content, 'the next point');
  assert.equal((await appliance.ask<CheckReport>('check', '--read-data')).ok, true);
});

test('a service whose catalog had no room goes on as it is when there is some again', async (t) => {
  const scene = await makeScene(t, 'state', 32 * MIB);
  const { appliance, room, renew, backupWords } = scene;
  const service = await appliance.serve();
  const points = new Map<string, Buffer>();
  const first = await renew();
  points.set((await appliance.ask<BackupReport>(...backupWords)).point, first);
  for (let round = 0; round < 3; round++) {
    await room.fill();
    // Until the pages that LevelDB's log has are full, there may be room for a point or two.
    for (;;) {
      const content = await renew();
      const result = await appliance.run(...backupWords, '--json');
      if (result.exitCode === EXIT_CODES.noSpace) break;
      points.set((JSON.parse(result.stdout) as BackupReport).point, content);
    }
    await assertPoints(appliance, points);
    await room.release();
    const content = await renew();
    points.set((await appliance.ask<BackupReport>(...backupWords)).point, content);
  }
  await assertPoints(appliance, points);
  assert.equal((await appliance.ask<CheckReport>('check', '--read-data')).ok, true);
  service.kill('SIGTERM');
  assert.equal((await service.result).exitCode, 0, service.stderr);
  await assertPoints(appliance, points);
});
