// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { localPrincipal } from '../../appliance/access/principal.ts';
import { type ApplianceHost, unattended } from '../../appliance/api/appliance-host.ts';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { initialize, openAppliance } from '../../appliance/main.ts';
import type { KeptState } from '../fixtures/make-state.ts';
import { unpackDirectory } from '../support/directory-archive.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

/*
 * State directories and repositories that earlier versions made, kept as they were: this version opens each of them and finds
 * everything. test/fixtures/make-state.ts makes one.
 */

const test = suite('what earlier versions made');
const FIXTURES: string = join(import.meta.dirname, '../fixtures');
const MAX_FIXTURE_BYTES: number = 200 * 1024;
const context = unattended(localPrincipal());
const kept: readonly string[] = (await readdir(FIXTURES)).filter((name) => /^state-.*\.json\.gz$/.test(name)).sort();

interface Kept {
  readonly facts: KeptState;
  readonly state: string;
  readonly directory: string;
}

/** A copy in a directory of its own, which `state.json` names. */
async function unpack(t: TestContext, name: string): Promise<Kept> {
  const directory = await t.tempDir();
  const facts = await unpackDirectory<KeptState>(join(FIXTURES, name), directory);
  const path = join(directory, 'state', 'state.json');
  const text = await readFile(path, 'utf8');
  assert.ok(text.includes(facts.directory));
  await writeFile(path, text.replaceAll(facts.directory, directory));
  return { facts, state: join(directory, 'state'), directory };
}

async function restoredSha(appliance: ApplianceHost, point: string, path: string): Promise<string> {
  await appliance.restore({ point, to: path }, context);
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

async function assertWhole(appliance: ApplianceHost, { facts, directory }: Kept): Promise<void> {
  const listed = await appliance.points({}, context);
  assert.deepEqual(
    listed.toReversed().map(({ id, machine }) => [id, machine]),
    facts.points.filter(({ id }) => id !== facts.deleted).map(({ id }) => [id, 'web']),
  );
  assert.equal(listed.find(({ id }) => id === facts.held)?.hold?.reason, 'an example');
  assert.equal(listed.find(({ id }) => id === facts.locked)?.lock?.until, '2036-01-01T00:00:00.000Z');
  assert.deepEqual((await appliance.check({ readData: true }, context)).findings, []);
  await appliance.undelete({ point: facts.deleted }, context);
  for (const { id, sha256 } of facts.points) {
    assert.equal(await restoredSha(appliance, id, join(directory, `${id}.raw`)), sha256);
  }
  await rejectsWith(appliance.delete({ point: facts.locked, now: true }, context), 'POINT_LOCKED');
}

assert.ok(kept.length > 0);
for (const name of kept) {
  test(`${name} opens, lists, checks and restores everything`, async (t) => {
    assert.ok((await stat(join(FIXTURES, name))).size <= MAX_FIXTURE_BYTES);
    const found = await unpack(t, name);
    const appliance = t.use(await openAppliance({ stateDirectory: found.state }));
    await assertWhole(appliance, found);
    assert.equal((await appliance.gc({}, context)).pointsPurged, 0);
  });

  test(`${name} is rebuilt from its repository and recovery key alone`, async (t) => {
    const found = await unpack(t, name);
    const stateDirectory = join(found.directory, 'another');
    await mkdir(stateDirectory);
    const from = join(found.directory, 'repository');
    await initialize({ stateDirectory, encryption: true, from, recoveryKey: found.facts.recoveryKey });
    const appliance = t.use(await openAppliance({ stateDirectory }));
    await assertWhole(appliance, found);
  });

  test(`${name}, had a newer version written its catalog or its configuration, is refused`, async (t) => {
    const { state } = await unpack(t, name);
    const catalog = await Catalog.open(join(state, 'catalog'));
    await catalog.putNote('format', 99);
    await catalog.close();
    const appliance = t.use(await openAppliance({ stateDirectory: state }));
    await rejectsWith(appliance.points({}, context), 'CATALOG_DAMAGED');
    // The repository is the truth: a catalog of this version can be made from it.
    await appliance.catalogRebuild({}, context);
    assert.equal((await appliance.points({}, context)).length, 2);
    await appliance[Symbol.asyncDispose]();
    await mkdir(join(state, 'config'), { recursive: true });
    const settings = { format: 'understudy-collection', version: 99, name: 'settings', revision: 0, records: [] };
    await writeFile(join(state, 'config', 'settings.json'), JSON.stringify(settings));
    await rejectsWith(openAppliance({ stateDirectory: state }), 'CONFIG_FORMAT');
  });
}
