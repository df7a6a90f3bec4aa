// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { canonicalJson } from '../../appliance/core/canonical-json.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { newPointId, parseMachineId } from '../../appliance/core/ids.ts';
import { hostUptime } from '../../appliance/core/uptime.ts';
import {
  checkMasterKey,
  loadConfig,
  newRepositoryConfig,
  storeNewConfig,
  unlockWithRecoveryKey,
} from '../../appliance/repository/config.ts';
import { decodeDeletedPoint, encodeDeletedPoint } from '../../appliance/repository/deleted-point.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import { FORMAT_VERSION } from '../../appliance/repository/format.ts';
import { deriveKeys } from '../../appliance/repository/keys.ts';
import { decodeManifest, encodeManifest, type RecoveryPoint, rootsOf } from '../../appliance/repository/manifest.ts';
import { ManifestStore } from '../../appliance/repository/manifest-store.ts';
import { PointGuards } from '../../appliance/repository/point-guards.ts';
import { formatRecoveryKey, newRecoveryKey, parseRecoveryKey } from '../../appliance/repository/recovery-key.ts';
import { MACHINE_ID } from '../support/point-model.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const KEY = deriveKeys(Buffer.alloc(32, 1), '00112233445566778899aabbccddeeff', true).manifest;
const OTHER_KEY = deriveKeys(Buffer.alloc(32, 2), '00112233445566778899aabbccddeeff', true).manifest;

function makePoint(change: Partial<RecoveryPoint> = {}): RecoveryPoint {
  return {
    format: 'understudy-point',
    version: FORMAT_VERSION,
    id: newPointId(),
    machine: { id: parseMachineId(MACHINE_ID), name: 'web "server" ü' },
    sequence: 3,
    createdAt: '2026-11-21T12:00:00.000Z',
    kind: 'incremental',
    reason: 'dirty bitmap',
    parent: newPointId(),
    consistency: 'file-system-consistent',
    disks: [
      {
        name: 'vda',
        sizeBytes: 2 ** 40 + 512,
        root: 'ab'.repeat(32),
        dataBytes: 123,
        identity: { '0': 'a', path: '/x' },
        kind: 'incremental',
        reason: 'dirty bitmap',
        stats: { changedBytes: 1, readBytes: 2, newChunkBytes: 3, storedBytes: 4 },
      },
      {
        name: 'vdb',
        sizeBytes: 512,
        root: '00'.repeat(32),
        dataBytes: 0,
        identity: {},
        kind: 'full',
        reason: 'new',
        stats: { changedBytes: 0, readBytes: 0, newChunkBytes: 0, storedBytes: 0 },
      },
    ],
    skipped: [{ name: 'sda', reason: 'a CD-ROM' }],
    attachments: [{ name: 'domain.xml', lengthBytes: 70_000, chunks: ['cd'.repeat(32), '00'.repeat(32)] }],
    tracker: { kind: 'libvirt-checkpoint', name: 'c1' },
    durationMs: 12.5,
    ...change,
  };
}

const test = suite('manifests');

test('a manifest decodes to the point that was encoded', () => {
  const point = makePoint();
  assert.deepEqual(decodeManifest(encodeManifest(point, KEY), KEY, 'x'), point);
});

test('a point of a machine under continuous protection names its place in the journal', () => {
  const journal = {
    logId: 'a0'.repeat(16),
    sequence: 0,
    timeUs: 1_795_287_600_000_000,
    disks: { vda: 0, vdb: 65_534 },
  };
  const point = makePoint({ journal });
  assert.deepEqual(decodeManifest(encodeManifest(point, KEY), KEY, 'x').journal, journal);
  for (const broken of [
    { ...journal, logId: 'x' },
    { ...journal, sequence: -1 },
    { ...journal, disks: { vda: 65_535 } },
  ]) {
    const stored = encodeManifest(makePoint({ journal: broken }), KEY);
    assert.throws(
      () => decodeManifest(stored, KEY, 'x'),
      (error) => hasCode(error, 'REPOSITORY_CORRUPT'),
    );
  }
});

test('any changed byte of a manifest or a deleted point is noticed, and so is another key', () => {
  const point = makePoint();
  const isRefused = (error: unknown): boolean => hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT');
  for (const [stored, decode] of [
    [encodeManifest(point, KEY), decodeManifest],
    [
      encodeDeletedPoint(point, { deletedAt: new Date(1_000).toISOString(), deletedLivedMs: 5 }, KEY),
      decodeDeletedPoint,
    ],
  ] as const) {
    for (let at = 0; at < stored.length; at++) {
      for (const mask of [0x20, 0x01, 0x80]) {
        const changed = Buffer.from(stored);
        changed.writeUInt8(changed.readUInt8(at) ^ mask, at);
        assert.throws(() => decode(changed, KEY, 'x'), isRefused, `byte ${at}, mask ${mask}`);
      }
    }
    assert.throws(() => decode(stored, OTHER_KEY, 'x'), isRefused);
    assert.throws(() => decode(stored.subarray(0, -1), KEY, 'x'), isRefused);
  }
});

test('a deleted point does not pass for a listed one, nor the other way round', () => {
  const point = makePoint();
  assert.throws(() =>
    decodeManifest(encodeDeletedPoint(point, { deletedAt: new Date(0).toISOString() }, KEY), KEY, 'x'),
  );
  assert.throws(() => decodeDeletedPoint(encodeManifest(point, KEY), KEY, 'x'));
});

test('a manifest under the name of another point or machine is refused', async (t) => {
  const root = await t.tempDir();
  const manifests = await openManifests(root);
  const [one, two] = [makePoint(), makePoint()];
  await manifests.put(one);
  await manifests.put(two);
  const pathOf = (point: RecoveryPoint): string => join(root, 'points', point.machine.id, `${point.id}.json`);
  await writeFile(pathOf(two), await readFile(pathOf(one)));
  await rejectsWith(manifests.get({ machineId: two.machine.id, pointId: two.id }), 'REPOSITORY_CORRUPT');
});

test('what the point would not read back as is not stored', async (t) => {
  const manifests = await openManifests(await t.tempDir());
  await rejectsWith(manifests.put(makePoint({ disks: [] })), 'REPOSITORY_CORRUPT');
  assert.deepEqual(await manifests.list(), []);
});

test('deleting, bringing back and purging move a point between the lists', async (t) => {
  const manifests = await openManifests(await t.tempDir());
  const point = makePoint();
  const ref = { machineId: point.machine.id, pointId: point.id };
  const lists = async (): Promise<unknown> => [await manifests.list(), await manifests.listDeleted()];
  await manifests.put(point);
  await manifests.delete(ref, 5_000);
  assert.deepEqual(await lists(), [[], [ref]]);
  assert.equal((await manifests.getDeleted(ref)).deletedAt, '1970-01-01T00:00:05.000Z');
  await rejectsWith(manifests.delete(ref, 6_000), 'OBJECT_NOT_FOUND');
  assert.deepEqual(await manifests.undelete(ref), point);
  assert.deepEqual(await lists(), [[ref], []]);
  await rejectsWith(manifests.undelete(ref), 'POINT_NOT_FOUND');
  await manifests.delete(ref, 7_000);
  await manifests.purge(ref);
  assert.deepEqual(await lists(), [[], []]);
});

test('the zero map and zero chunks are no roots', () => {
  const { maps, chunks } = rootsOf(makePoint());
  assert.equal(maps.length, 1);
  assert.equal(chunks.length, 1);
});

test('canonical JSON is the same for the same value, whatever the order of its members', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
      const reversed = Object.fromEntries(Object.entries(value).reverse());
      assert.equal(canonicalJson(reversed), canonicalJson(value));
      assert.deepEqual(JSON.parse(canonicalJson(value)), JSON.parse(JSON.stringify(value)));
    }),
  );
});

const keys = suite('recovery key and configuration');

keys('a recovery key reads back as its bytes, however it is typed', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 20, maxLength: 20 }), (bytes) => {
      const key = formatRecoveryKey(Buffer.from(bytes));
      for (const typed of [
        key,
        key.toLowerCase(),
        key.replaceAll('-', ' '),
        key.replaceAll('0', 'o').replaceAll('1', 'l'),
      ]) {
        assert.deepEqual(parseRecoveryKey(typed), Buffer.from(bytes));
      }
    }),
  );
});

keys('a recovery key with one wrong character, or two changed places, is refused', () => {
  const alphabet = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
  const key = formatRecoveryKey(Buffer.from('twenty secret bytes!')).replaceAll('-', '');
  const isRefused = (error: unknown): boolean => hasCode(error, 'REPOSITORY_KEY');
  for (let at = 0; at < key.length; at++) {
    for (const character of alphabet) {
      if (character === key[at]) continue;
      assert.throws(() => parseRecoveryKey(key.slice(0, at) + character + key.slice(at + 1)), isRefused);
    }
    const swapped = key.slice(0, at) + (key[at + 1] ?? '') + (key[at] ?? '') + key.slice(at + 2);
    if (swapped !== key) assert.throws(() => parseRecoveryKey(swapped), isRefused);
  }
  for (const typed of ['', 'ABC', `${key}0`, key.slice(1), 'U'.repeat(36)]) {
    assert.throws(() => parseRecoveryKey(typed), isRefused);
  }
});

keys('the recovery key opens its repository and no other', async (t) => {
  const recoveryKey = newRecoveryKey();
  const { config, masterKey } = newRepositoryConfig({ recoveryKey, createdAt: '2026-11-21T00:00:00.000Z' });
  const store = await DirectoryStore.open(await t.tempDir());
  await storeNewConfig(store, config);
  const loaded = await loadConfig(store, 'here');
  assert.deepEqual(loaded, config);
  assert.deepEqual(unlockWithRecoveryKey(loaded, recoveryKey), masterKey);
  assert.throws(
    () => unlockWithRecoveryKey(loaded, newRecoveryKey()),
    (error) => hasCode(error, 'REPOSITORY_KEY'),
  );
  assert.throws(
    () => unlockWithRecoveryKey(loaded, undefined),
    (error) => hasCode(error, 'REPOSITORY_KEY'),
  );
  checkMasterKey(loaded, masterKey);
  assert.throws(
    () => checkMasterKey(loaded, Buffer.alloc(32)),
    (error) => hasCode(error, 'REPOSITORY_KEY'),
  );
});

keys('a configuration in which encryption was turned off is refused', () => {
  const { config, masterKey } = newRepositoryConfig({ recoveryKey: undefined, createdAt: '2026-11-21T00:00:00.000Z' });
  checkMasterKey(config, masterKey);
  const changed = { ...config, encryption: 'aes-256-gcm' as const };
  assert.throws(
    () => checkMasterKey(changed, masterKey),
    (error) => hasCode(error, 'REPOSITORY_CORRUPT'),
  );
});

keys('a configuration that asks for a costlier key derivation, or is no JSON, is refused', async (t) => {
  const { config } = newRepositoryConfig({ recoveryKey: newRecoveryKey(), createdAt: '2026-11-21T00:00:00.000Z' });
  const [slot] = config.slots;
  assert.ok(slot?.kind === 'scrypt');
  const texts = [
    '',
    '[]',
    'null',
    JSON.stringify({ ...config, slots: [{ ...slot, n: 2 ** 30 }] }),
    JSON.stringify({ ...config, slots: [{ ...slot, tag: slot.tag.slice(4) }] }),
    JSON.stringify({ ...config, chunkBytes: 1 }),
  ];
  for (const text of texts) {
    const root = await t.tempDir();
    await writeFile(join(root, 'config.json'), text);
    await rejectsWith(loadConfig(await DirectoryStore.open(root), root), 'REPOSITORY_FORMAT');
  }
});

async function openManifests(root: string): Promise<ManifestStore> {
  const store = await DirectoryStore.open(root);
  return new ManifestStore(store, KEY, new PointGuards(store, KEY, { clock: systemClock, uptime: hostUptime }));
}
