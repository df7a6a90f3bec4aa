// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from '../support/suite.ts';

const test = suite('bounds of docs/operations.md');
const DOCS: string = join(import.meta.dirname, '../../docs');
const ROW = /^\| [^|]+ \| ([\d,]+) \| \[(\w+)\]\(([^)]+)\) \|/gm;

test('each bound of the page is the one of the program', async () => {
  const rows = [...readFileSync(join(DOCS, 'operations.md'), 'utf8').matchAll(ROW)];
  assert.ok(rows.length > 15);
  for (const [, value = '', name = '', path = ''] of rows) {
    const module = (await import(join(DOCS, path))) as Readonly<Record<string, unknown>>;
    assert.equal(module[name], Number(value.replaceAll(',', '')), `${name} of ${path}`);
  }
});
