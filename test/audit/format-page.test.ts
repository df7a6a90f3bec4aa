// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { type AuditEntry, encodeEntry, GENESIS_HASH, hashEntry } from '../../appliance/audit/entry.ts';
import { decodeSegment, encodeHeader } from '../../appliance/audit/segment.ts';
import { suite } from '../support/suite.ts';

const test = suite('docs/formats/audit.md');
const page = await readFile(new URL('../../docs/formats/audit.md', import.meta.url), 'utf8');

test('its example is an entry as the program writes it, and every member is explained', () => {
  const [, line = ''] = /```json\n(.*)\n```/.exec(page) ?? [];
  const { hash, ...rest } = JSON.parse(line) as AuditEntry & { readonly hash: string };
  assert.equal(hashEntry(GENESIS_HASH, rest), hash);
  assert.equal(encodeEntry(rest, hash), `${line}\n`);
  for (const name of Object.keys(rest)) assert.ok(page.includes(`| \`${name}\` |`), name);
  const header = encodeHeader({
    format: 'understudy-audit',
    version: 1,
    segment: 1,
    sequence: 1,
    previous: GENESIS_HASH,
  });
  const content = decodeSegment(Buffer.from(`${header}${line}\n`), 'example');
  assert.deepEqual([content?.bad, content?.hash], [undefined, hash]);
});
