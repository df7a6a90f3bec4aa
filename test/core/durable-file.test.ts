// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  makeDirectoryDurably,
  publishDurably,
  removeStaleTemporaries,
  temporaryPath,
  writeDurably,
} from '../../appliance/core/durable-file.ts';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { type FileSystem, realFileSystem } from '../../appliance/core/file-system.ts';
import { CrashingFileSystem } from '../support/crashing-file-system.ts';
import { everyStep, FaultPlan, FaultyFileSystem } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';

const test = suite('durable file');

test('a written file is there with its bytes and nothing else', async (t) => {
  const dir = await t.tempDir();
  await writeDurably(join(dir, 'a'), 'first');
  await writeDurably(join(dir, 'a'), [Buffer.from('sec'), Buffer.from('ond')]);
  assert.equal(await readFile(join(dir, 'a'), 'utf8'), 'second');
  assert.deepEqual(await readdir(dir), ['a']);
});

test('put if absent refuses a name that is taken and changes nothing', async (t) => {
  const dir = await t.tempDir();
  await writeDurably(join(dir, 'a'), 'first', { ifAbsent: true });
  await assert.rejects(writeDurably(join(dir, 'a'), 'second', { ifAbsent: true }), (error) =>
    hasCode(error, 'OBJECT_EXISTS'),
  );
  assert.equal(await readFile(join(dir, 'a'), 'utf8'), 'first');
  assert.deepEqual(await readdir(dir), ['a']);
});

test('a published file has its final name only', async (t) => {
  const dir = await t.tempDir();
  const temporary = temporaryPath(dir);
  await writeFile(temporary, 'x');
  await publishDurably(temporary, join(dir, 'a'));
  assert.deepEqual(await readdir(dir), ['a']);
  await writeFile(temporary, 'y');
  await assert.rejects(publishDurably(temporary, join(dir, 'a')), (error) => hasCode(error, 'OBJECT_EXISTS'));
  assert.equal(await readFile(join(dir, 'a'), 'utf8'), 'x');
});

test('stale temporaries are removed and nothing else', async (t) => {
  const dir = await t.tempDir();
  await writeFile(temporaryPath(dir), 'x');
  await writeFile(join(dir, '.temporary-mine'), 'x');
  await mkdir(join(dir, '.temporary-0123456789abcdef'));
  assert.equal(await removeStaleTemporaries(dir), 1);
  assert.deepEqual((await readdir(dir)).sort(), ['.temporary-0123456789abcdef', '.temporary-mine']);
});

test('errors name the path and tell a full disk from a broken one', async (t) => {
  const dir = await t.tempDir();
  await assert.rejects(writeDurably(join(dir, 'missing', 'a'), 'x'), (error) => {
    assert.ok(error instanceof ApplianceError);
    assert.equal(error.code, 'IO_FAILED');
    assert.deepEqual(error.details, { path: join(dir, 'missing', 'a'), systemCode: 'ENOENT' });
    return true;
  });
  const full = new FaultyFileSystem(realFileSystem, new FaultPlan({ kind: 'error', at: 2, code: 'ENOSPC' }));
  await assert.rejects(writeDurably(join(dir, 'a'), 'x', { fileSystem: full }), (error) => hasCode(error, 'NO_SPACE'));
  assert.deepEqual(await readdir(dir), []);
});

test('missing parents are made', async (t) => {
  const dir = await t.tempDir();
  await makeDirectoryDurably(join(dir, 'a', 'b', 'c'));
  await makeDirectoryDurably(join(dir, 'a', 'b', 'c'));
  assert.deepEqual(await readdir(join(dir, 'a', 'b')), ['c']);
});

for (const ifAbsent of [false, true]) {
  const title = ifAbsent ? 'put if absent' : 'replace';

  test(`${title}: a failure of any step leaves the old content or the new one`, async () => {
    const steps = await everyStep(
      (at) => ({ kind: 'error', at, code: 'EIO' }),
      async (plan) => {
        const disk = await prepared(ifAbsent);
        const outcome = await attempt(new FaultyFileSystem(disk, plan), ifAbsent);
        const content = await contentOf(disk);
        if (outcome === 'written') assert.equal(content, 'new');
        else assert.ok(content === 'new' || content === (ifAbsent ? undefined : 'old'), String(content));
      },
    );
    assert.ok(steps >= 5, `${steps} steps`);
  });

  test(`${title}: a power failure at any step leaves the old content or the new one, and the new one once settled`, async () => {
    await everyStep(
      (at) => ({ kind: 'crash', at, partial: at % 2 === 0 }),
      async (plan) => {
        const disk = await prepared(ifAbsent);
        const outcome = await attempt(new FaultyFileSystem(disk, plan), ifAbsent);
        for (let seed = 1; seed <= 50; seed++) {
          const survivor = disk.crash(seed);
          const content = await contentOf(survivor);
          if (outcome === 'written') assert.equal(content, 'new');
          else assert.ok(content === 'new' || content === (ifAbsent ? undefined : 'old'), String(content));
          await removeStaleTemporaries('/d', survivor);
          assert.deepEqual(
            (await survivor.readDirectory('/d')).map((entry) => entry.name),
            content === undefined ? [] : ['a'],
          );
        }
      },
    );
  });
}

test('the crashing file system loses what was not synced and keeps what was', async () => {
  const disk = new CrashingFileSystem();
  await disk.makeDirectory('/d');
  await disk.syncDirectory('/');
  const file = await disk.open('/d/a', 'create');
  await file.write(Buffer.alloc(4096, 1), 0);
  await file.syncData();
  await disk.syncDirectory('/d');
  await file.write(Buffer.alloc(4096, 2), 0);
  const seen = new Set<string>();
  for (let seed = 0; seed < 200; seed++) {
    const content = disk.crash(seed).contentOf('/d/a');
    assert.equal(content.length, 4096);
    assert.ok(content.every((byte) => byte === 1 || byte === 2));
    if (content.every((byte) => byte === 1)) seen.add('old');
    else if (content.every((byte) => byte === 2)) seen.add('new');
    else seen.add('torn');
  }
  assert.deepEqual([...seen].sort(), ['new', 'old', 'torn']);
});

async function prepared(isEmpty: boolean): Promise<CrashingFileSystem> {
  const disk = new CrashingFileSystem();
  await makeDirectoryDurably('/d', disk);
  if (!isEmpty) await writeDurably('/d/a', 'old', { fileSystem: disk });
  return disk;
}

async function attempt(fileSystem: FileSystem, ifAbsent: boolean): Promise<'written' | 'failed'> {
  try {
    await writeDurably('/d/a', 'new', { ifAbsent, fileSystem });
    return 'written';
  } catch (error) {
    assert.ok(hasCode(error, 'IO_FAILED'), String(error));
    return 'failed';
  }
}

async function contentOf(disk: CrashingFileSystem): Promise<string | undefined> {
  return (await disk.stat('/d/a')) === undefined ? undefined : disk.contentOf('/d/a').toString();
}
