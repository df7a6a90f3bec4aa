// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createSecretKey } from 'node:crypto';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AuditLog, type AuditLogOptions } from '../../appliance/audit/audit-log.ts';
import { type AuditEvent, withoutSecrets } from '../../appliance/audit/entry.ts';
import { listAudit } from '../../appliance/audit/list.ts';
import { verifyAudit } from '../../appliance/audit/verify.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { CrashingFileSystem } from '../support/crashing-file-system.ts';
import { everyStep, FaultyFileSystem } from '../support/faulty-file-system.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('audit log');

const KEY = createSecretKey(Buffer.alloc(32, 7));

test('entries are there for the next process, and the chain goes on', async (t) => {
  const state = await t.tempDir();
  for (let round = 1; round <= 3; round++) {
    await using log = await open({ stateDirectory: state });
    assert.equal(log.head.sequence, (round - 1) * 2);
    await log.record(event('backup'));
    await log.record(event('delete'));
    const { bad, entries, head } = await verifyAudit(log, []);
    assert.deepEqual({ bad, entries, head }, { bad: null, entries: round * 2, head: log.head.hash });
  }
});

test('entries that arrive together keep their order and share writes', async (t) => {
  const log = t.use(await open({ stateDirectory: await t.tempDir() }));
  const heard: number[] = [];
  log.onEntry(({ sequence }) => heard.push(sequence));
  const entries = await Promise.all(Array.from({ length: 600 }, () => log.record(event('stop'))));
  assert.deepEqual(
    entries.map(({ sequence }) => sequence),
    Array.from({ length: 600 }, (_, index) => index + 1),
  );
  assert.equal(heard.length, 600);
  assert.equal((await verifyAudit(log, [])).bad, null);
});

test('full segments are archived, and the chain goes through them', async (t) => {
  const state = await t.tempDir();
  const told: number[] = [];
  const onLarge = (sizeBytes: number): unknown => told.push(sizeBytes);
  const log = t.use(await open({ stateDirectory: state, segmentBytes: 1500, logBytes: 1500, onLarge }));
  for (let count = 0; count < 20; count++) await log.record(event('backup'));
  const names = await readdir(join(state, 'audit'));
  assert.ok(names.length > 3, String(names));
  assert.deepEqual(
    names.filter((name) => !name.endsWith('.gz')),
    [names.at(-1)],
  );
  const verdict = await verifyAudit(log, []);
  assert.deepEqual([verdict.bad, verdict.entries, verdict.segments], [null, 20, names.length]);
  assert.equal((await listAudit(log, { limit: 100 })).length, 20);
  assert.ok(told.length > 0 && told.every((sizeBytes) => sizeBytes > 1500), String(told));
  // The oldest may be moved away: the log then says where it begins.
  await rm(join(state, 'audit', names[0] ?? ''));
  assert.ok((await verifyAudit(log, [])).first > 1);
  await rm(join(state, 'audit', names[2] ?? ''));
  assert.match((await verifyAudit(log, [])).bad?.reason ?? '', /missing/);
});

test('each changed byte is found, and the entry is named', async (t) => {
  const state = await t.tempDir();
  const log = t.use(await open({ stateDirectory: state }));
  for (let count = 0; count < 4; count++) await log.record(event('backup'));
  const path = join(state, 'audit', 'segment-000001.jsonl');
  const good = await readFile(path);
  for (let at = 0; at < good.length; at += 3) {
    const bad = Buffer.from(good);
    bad[at] = (bad[at] ?? 0) ^ 1;
    await writeFile(path, bad);
    const line =
      good
        .subarray(0, at + 1)
        .toString()
        .split('\n').length - (good[at] === 0x0a ? 1 : 0);
    const named = (await verifyAudit(log, [])).bad?.sequence;
    assert.equal(named, Math.max(1, line - 1), `byte ${at}`);
  }
});

test('a removed, an exchanged and a made-up entry are found', async (t) => {
  const state = await t.tempDir();
  const log = t.use(await open({ stateDirectory: state }));
  for (let count = 0; count < 4; count++) await log.record(event(`act-${count}`));
  const path = join(state, 'audit', 'segment-000001.jsonl');
  const lines = (await readFile(path, 'utf8')).split('\n');
  const [head = '', one = '', two = '', three = '', four = ''] = lines;
  for (const bad of [
    [head, one, three, four],
    [head, two, one, three, four],
    [head, one, two.replace('act-1', 'act-9'), three, four],
    [head, one, two, two, three, four],
  ]) {
    await writeFile(path, `${bad.join('\n')}\n`);
    assert.notEqual((await verifyAudit(log, [])).bad, null);
  }
});

test('an anchor tells of an end that was cut and of a log that was written anew', async (t) => {
  const [state, other] = [await t.tempDir(), await t.tempDir()];
  const path = join(state, 'audit', 'segment-000001.jsonl');
  const log = await open({ stateDirectory: state });
  for (let count = 0; count < 4; count++) await log.record(event('backup'));
  const anchor = log.anchor();
  await log[Symbol.asyncDispose]();
  const lines = (await readFile(path, 'utf8')).split('\n');
  await writeFile(path, `${lines.slice(0, 3).join('\n')}\n`);
  await using cut = await open({ stateDirectory: state });
  assert.equal((await verifyAudit(cut, [])).bad, null);
  assert.match((await verifyAudit(cut, [anchor])).bad?.reason ?? '', /end is missing/);
  await using anew = await open({ stateDirectory: other });
  for (let count = 0; count < 5; count++) await anew.record(event('forged'));
  assert.match((await verifyAudit(anew, [anchor])).bad?.reason ?? '', /written anew/);
  const foreign = { ...anchor, sequence: 2 };
  assert.match((await verifyAudit(anew, [foreign])).bad?.reason ?? '', /not this appliance's/);
});

test('an end that somebody changed is not repaired, and the log goes on behind it', async (t) => {
  const state = await t.tempDir();
  const log = await open({ stateDirectory: state });
  for (let count = 0; count < 3; count++) await log.record(event('backup'));
  await log[Symbol.asyncDispose]();
  const path = join(state, 'audit', 'segment-000001.jsonl');
  const changed = (await readFile(path, 'utf8')).replace('"sequence":3', '"sequence":9');
  await writeFile(path, changed);
  await using again = await open({ stateDirectory: state });
  await again.record(event('delete'));
  assert.equal(await readFile(path, 'utf8'), changed);
  assert.equal((await verifyAudit(again, [])).bad?.sequence, 3);
  assert.deepEqual(
    (await listAudit(again, { limit: 2 })).map(({ action }) => action),
    ['delete', 'audit-damaged'],
  );
});

test('a start and its end are one act; one without an end is unfinished', async (t) => {
  const log = t.use(await open({ stateDirectory: await t.tempDir() }));
  const { sequence } = await log.record({ ...event('backup'), phase: 'started', outcome: null });
  await log.record({ ...event('restore'), phase: 'started', outcome: null, target: 'db' });
  await log.record({ ...event('backup'), phase: 'ended', start: sequence, outcome: 'failed', code: 'NO_SPACE' });
  await log.record(event('login'));
  const acts = await listAudit(log, { limit: 10 });
  assert.deepEqual(
    acts.map(({ action, outcome, code }) => [action, outcome, code]),
    [
      ['login', 'ok', null],
      ['restore', 'unfinished', null],
      ['backup', 'failed', 'NO_SPACE'],
    ],
  );
  assert.equal((await listAudit(log, { limit: 1 })).length, 1);
  for (const filter of [{ target: 'db' }, { action: 'restore' }, { outcome: 'unfinished' as const }]) {
    assert.deepEqual(
      (await listAudit(log, { ...filter, limit: 10 })).map(({ action }) => action),
      ['restore'],
    );
  }
  assert.deepEqual(await listAudit(log, { who: 'nobody', limit: 10 }), []);
  assert.deepEqual(await listAudit(log, { sinceMs: 2_000_000_000_000, limit: 10 }), []);
});

test('a failure of any step loses nothing that was acknowledged, and the log goes on', async () => {
  await everyStep(
    (at) => ({ kind: 'error', at, code: at % 2 === 0 ? 'ENOSPC' : 'EIO' }),
    async (plan) => {
      const disk = await emptyDisk();
      const options = { stateDirectory: '/d', segmentBytes: 700 };
      const acknowledged: string[] = [];
      const broken = await openIfPossible({ ...options, fileSystem: new FaultyFileSystem(disk, plan) });
      for (const name of ['a', 'b', 'c', 'd']) {
        if (broken !== undefined && (await isDone(broken.record(event(name))))) acknowledged.push(name);
      }
      await broken?.[Symbol.asyncDispose]();
      await using log = await open({ ...options, fileSystem: disk });
      await checkSurvived(log, acknowledged);
    },
  );
});

test('a power failure at any step loses nothing that was acknowledged, and leaves a whole chain', async () => {
  await everyStep(
    (at) => ({ kind: 'crash', at, partial: at % 2 === 0 }),
    async (plan) => {
      const disk = await emptyDisk();
      const options = { stateDirectory: '/d', segmentBytes: 700 };
      const acknowledged: string[] = [];
      const broken = await openIfPossible({ ...options, fileSystem: new FaultyFileSystem(disk, plan) });
      for (const name of ['a', 'b', 'c', 'd']) {
        if (broken !== undefined && (await isDone(broken.record(event(name))))) acknowledged.push(name);
      }
      await broken?.[Symbol.asyncDispose]();
      for (let seed = 1; seed <= 12; seed++) {
        await using log = await open({ ...options, fileSystem: disk.crash(seed) });
        await checkSurvived(log, acknowledged);
      }
    },
  );
});

test('secrets and endless texts are not recorded', () => {
  assert.deepEqual(
    withoutSecrets({
      name: 'web',
      password: 'geheim',
      recoveryKey: 'ABCD',
      hasPassword: true,
      nested: { apiToken: 'x', list: [{ totp: '1' }] },
      uri: 'nbd://user:geheim@host/x',
      gone: undefined,
    }),
    {
      name: 'web',
      password: '(not recorded)',
      recoveryKey: '(not recorded)',
      hasPassword: true,
      nested: { apiToken: '(not recorded)', list: [{ totp: '(not recorded)' }] },
      uri: 'nbd://user@host/x',
    },
  );
  const { text } = withoutSecrets({ text: 'x'.repeat(10_000) }) as { readonly text: string };
  assert.ok(text.length < 500);
  assert.deepEqual(Object.keys(withoutSecrets({ list: Array.from({ length: 5000 }, () => 'abc') })), ['omittedBytes']);
});

test('a segment of another version is refused; behind one that cannot be made out the log goes on', async (t) => {
  const state = await t.tempDir();
  await using log = await open({ stateDirectory: state });
  await log.record(event('backup'));
  const path = join(state, 'audit', 'segment-000001.jsonl');
  const good = await readFile(path, 'utf8');
  await writeFile(path, good.replace('"version":1', '"version":2'));
  await rejectsWith(open({ stateDirectory: state }), 'CONFIG_FORMAT');
  await writeFile(path, `x${good}`);
  await using behind = await open({ stateDirectory: state });
  await behind.record(event('delete'));
  assert.match((await verifyAudit(behind, [])).bad?.reason ?? '', /first line/);
  assert.deepEqual(
    (await listAudit(behind, { limit: 20 })).map(({ action }) => action),
    ['delete', 'audit-damaged'],
  );
});

function open(options: Partial<AuditLogOptions> & { readonly stateDirectory: string }): Promise<AuditLog> {
  return AuditLog.open({ clock: { nowMs: () => 1_790_000_000_000, elapsedMs: () => 0 }, key: KEY, ...options });
}

async function openIfPossible(options: Parameters<typeof open>[0]): Promise<AuditLog | undefined> {
  try {
    return await open(options);
  } catch (error) {
    assert.ok(hasCode(error, 'IO_FAILED', 'NO_SPACE'), String(error));
    return undefined;
  }
}

async function isDone(work: Promise<unknown>): Promise<boolean> {
  try {
    await work;
    return true;
  } catch (error) {
    assert.ok(hasCode(error, 'IO_FAILED', 'NO_SPACE'), String(error));
    return false;
  }
}

async function emptyDisk(): Promise<CrashingFileSystem> {
  const disk = new CrashingFileSystem();
  await disk.makeDirectory('/d');
  await disk.syncDirectory('/');
  return disk;
}

async function checkSurvived(log: AuditLog, acknowledged: readonly string[]): Promise<void> {
  await log.record(event('after'));
  assert.equal((await verifyAudit(log, [])).bad, null);
  const actions = (await listAudit(log, { limit: 100 })).map(({ action }) => action).reverse();
  const kept = actions.filter((action) => action.length === 1);
  assert.deepEqual(
    acknowledged.filter((name) => !kept.includes(name)),
    [],
  );
  assert.deepEqual(kept, [...new Set(kept)].sort());
  assert.equal(actions.at(-1), 'after');
}

function event(action: string): AuditEvent {
  return {
    phase: 'event',
    action,
    who: { kind: 'user', id: 'ada', name: 'Ada', role: 'admin' },
    from: '192.0.2.1',
    requestId: null,
    target: 'web',
    params: { name: 'web' },
    outcome: 'ok',
    code: null,
    approval: null,
  };
}
