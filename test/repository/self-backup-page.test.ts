// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { ApplianceStates } from '../../appliance/repository/appliance-state.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import { deriveKeys } from '../../appliance/repository/keys.ts';
import { suite } from '../support/suite.ts';

const test = suite('docs/formats/self-backup.md');
const page = await readFile(new URL('../../docs/formats/self-backup.md', import.meta.url), 'utf8');

test('its example is a state that opens, and every member is explained', async (t) => {
  const [, key = ''] = /^`(appliance\/[^`]+)` of/m.exec(page) ?? [];
  const [, body = ''] = /```json\n([^]*?)```/.exec(page) ?? [];
  const store = await DirectoryStore.open(await t.tempDir());
  await store.put(key, Buffer.from(body, 'utf8'));
  const states = new ApplianceStates(store, deriveKeys(Buffer.alloc(32, 7), '0'.repeat(32), true));
  const [state] = (await states.list()).states;
  assert.ok(state !== undefined);
  const { content } = states.open(state);
  for (const name of [...Object.keys(state.stored), ...Object.keys(content as object)]) {
    assert.ok(page.includes(`| \`${name}\` |`), name);
  }
});
