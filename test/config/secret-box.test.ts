// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { ApplianceKeys } from '../../appliance/config/appliance-key.ts';
import { derivedKey, isSealedSecret, type SealedSecret, SecretBox } from '../../appliance/config/secret-box.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { CrashingFileSystem } from '../support/crashing-file-system.ts';
import { everyStep, FaultyFileSystem } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';

const test = suite('secret box');

const place = { collection: 'hypervisors', id: 'one', field: 'password' };

test('a sealed secret opens in its place and in no other', async (t) => {
  const box = new SecretBox(await ApplianceKeys.open(await t.tempDir()));
  const sealed = box.seal(place, 'geheim');
  assert.ok(isSealedSecret(sealed));
  assert.equal(box.open(place, sealed), 'geheim');
  for (const other of [{ collection: 'users' }, { id: 'two' }, { field: 'key' }]) {
    unreadable(() => box.open({ ...place, ...other }, sealed));
  }
});

test('any text comes back, and the same text is sealed differently each time', async (t) => {
  const box = new SecretBox(await ApplianceKeys.open(await t.tempDir()));
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 300 }), (text) => {
      const sealed = box.seal(place, text);
      assert.equal(box.open(place, sealed), text);
      assert.notEqual(box.seal(place, text), sealed);
    }),
    { numRuns: 100 },
  );
  assert.equal(box.seal(place, 'x').length, box.seal(place, 'x'.repeat(50)).length);
  assert.throws(
    () => box.seal(place, 'x'.repeat(70_000)),
    (error) => hasCode(error, 'LIMIT_REACHED'),
  );
});

test('each changed character is noticed', async (t) => {
  const box = new SecretBox(await ApplianceKeys.open(await t.tempDir()));
  const sealed = box.seal(place, 'geheim');
  for (let at = 0; at < sealed.length; at++) {
    const other = sealed[at] === 'A' ? 'B' : 'A';
    unreadable(() => box.open(place, `${sealed.slice(0, at)}${other}${sealed.slice(at + 1)}` as SealedSecret));
  }
  for (const length of [0, 10, 40, sealed.length - 1]) {
    unreadable(() => box.open(place, sealed.slice(0, length) as SealedSecret));
  }
});

test('the key is made once, is for its owner only, and another appliance has another', async (t) => {
  const [here, there] = [await t.tempDir(), await t.tempDir()];
  const [first, second] = await Promise.all([ApplianceKeys.open(here), ApplianceKeys.open(here)]);
  assert.deepEqual(first.all, second.all);
  assert.equal((await stat(join(here, 'appliance.key'))).mode & 0o777, 0o600);
  const sealed = new SecretBox(first).seal(place, 'geheim');
  assert.equal(new SecretBox(await ApplianceKeys.open(here)).open(place, sealed), 'geheim');
  const other = new SecretBox(await ApplianceKeys.open(there));
  unreadable(() => other.open(place, sealed));
  assert.ok(!sealed.includes(first.current.secret.toString('base64url')));
});

test('keys for different purposes differ, and stay the same', async (t) => {
  const keys = await ApplianceKeys.open(await t.tempDir());
  const [audit, again, other] = ['audit', 'audit', 'cursor'].map((purpose) =>
    derivedKey(keys.current, purpose).export().toString('hex'),
  );
  assert.equal(audit, again);
  assert.notEqual(audit, other);
});

test('after a rotation everything opens, and once resealed the old key can go', async (t) => {
  const directory = await t.tempDir();
  const keys = await ApplianceKeys.open(directory);
  const box = new SecretBox(keys);
  const old = box.seal(place, 'geheim');
  await keys.rotate();
  assert.equal(box.open(place, old), 'geheim');
  const fresh = box.reseal(place, old);
  assert.notEqual(fresh, old);
  assert.equal(box.reseal(place, fresh), fresh);
  await keys.retire();
  unreadable(() => box.open(place, old));
  assert.equal(new SecretBox(await ApplianceKeys.open(directory)).open(place, fresh), 'geheim');
});

test('a crash at any step of a rotation leaves a key file that opens what was sealed', async () => {
  await everyStep(
    (at) => ({ kind: 'crash', at, partial: at % 2 === 0 }),
    async (plan) => {
      const disk = new CrashingFileSystem();
      await disk.makeDirectory('/d');
      await disk.syncDirectory('/');
      const sealed = new SecretBox(await ApplianceKeys.open('/d', disk)).seal(place, 'geheim');
      const keys = await ApplianceKeys.open('/d', new FaultyFileSystem(disk, plan));
      const fresh = await keys.rotate().then(
        () => new SecretBox(keys).reseal(place, sealed),
        () => undefined,
      );
      for (let seed = 1; seed <= 20; seed++) {
        const box = new SecretBox(await ApplianceKeys.open('/d', disk.crash(seed)));
        assert.equal(box.open(place, sealed), 'geheim');
        if (fresh !== undefined) assert.equal(box.open(place, fresh), 'geheim');
      }
    },
  );
});

test('a damaged key file and one of another version are refused, never replaced', async (t) => {
  const directory = await t.tempDir();
  await ApplianceKeys.open(directory);
  const path = join(directory, 'appliance.key');
  const good = await readFile(path, 'utf8');
  for (const bad of ['', good.slice(0, 40), good.trimEnd(), good.replace('key 1', 'key 2'), `${good}xxxx\n`]) {
    await writeFile(path, bad);
    await assert.rejects(ApplianceKeys.open(directory), (error) => hasCode(error, 'CONFIG_DAMAGED', 'CONFIG_FORMAT'));
    assert.equal(await readFile(path, 'utf8'), bad);
  }
});

function unreadable(work: () => unknown): void {
  assert.throws(work, (error) => hasCode(error, 'SECRET_UNREADABLE'));
}
