// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { ERROR_TABLE, EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { suite } from '../support/suite.ts';
import { foldersBelow, markdownPages, quoted, ROOT, type SourceFile, tableBelow } from './source-tree.ts';

const MAX_README_LINES = 150;

/** Links of a page, without those into the web, code blocks left out. */
function localLinks({ text }: SourceFile): string[] {
  const prose = text.replaceAll(/^```[\s\S]*?^```/gm, '').replaceAll(/`[^`\n]*`/g, '');
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)]
    .map((match) => match[1] ?? '')
    .filter((link) => !/^[a-z]+:/.test(link));
}

/** The anchor that a heading gets on the usual forges. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');
}

function anchorsOf(path: string): string[] {
  const text = readFileSync(join(ROOT, path), 'utf8').replaceAll(/^```[\s\S]*?^```/gm, '');
  return [...text.matchAll(/^#+ (.*)$/gm)].map((match) => anchorOf(match[1] ?? ''));
}

/** Where a link of a page leads: the path from the root, and the anchor if any. */
function resolveLink(page: string, link: string): { path: string; anchor: string } {
  const [file = '', anchor = ''] = link.split('#');
  return { path: file === '' ? page : posix.join(posix.dirname(page), file), anchor };
}

const test = suite('documentation');

test('every link leads to a file, and every anchor to a heading', () => {
  const broken = markdownPages().flatMap((page) =>
    localLinks(page)
      .filter((link) => {
        const { path, anchor } = resolveLink(page.path, link);
        if (!existsSync(join(ROOT, path))) return true;
        return anchor !== '' && path.endsWith('.md') && !anchorsOf(path).includes(anchor);
      })
      .map((link) => `${page.path}: ${link}`),
  );
  assert.deepEqual(broken, []);
});

test('every page of docs/ can be reached from docs/README.md', () => {
  const pages = new Map(markdownPages().map((page) => [page.path, page]));
  const reached = new Set<string>();
  const visit = (path: string): void => {
    const page = pages.get(path);
    if (page === undefined || reached.has(path)) return;
    reached.add(path);
    for (const link of localLinks(page)) visit(resolveLink(path, link).path);
  };
  visit('docs/README.md');
  assert.deepEqual(
    [...pages.keys()].filter((path) => path.startsWith('docs/') && !reached.has(path)),
    [],
  );
});

test('docs/errors.md has every error code with its exit code and retry class, and no other', () => {
  const documented = tableBelow('docs/errors.md', 'Codes').map(([code, exit, retry]) => [
    quoted(code ?? '')[0],
    Number(exit),
    retry,
  ]);
  const actual = Object.entries(ERROR_TABLE).map(([code, { exit, retry }]) => [code, EXIT_CODES[exit], retry]);
  const byCode = (a: unknown[], b: unknown[]): number => (String(a[0]) < String(b[0]) ? -1 : 1);
  assert.deepEqual(documented.toSorted(byCode), actual.toSorted(byCode));
});

test('each error code of docs/errors.md is explained', () => {
  const unexplained = tableBelow('docs/errors.md', 'Codes').filter(([, , , text = '']) => text.length < 20);
  assert.deepEqual(unexplained, []);
});

test('docs/errors.md has every exit code, and no other', () => {
  const documented = tableBelow('docs/errors.md', 'Exit codes').map(([exit]) => Number(exit));
  assert.deepEqual(documented, Object.values(EXIT_CODES));
});

test('the folders that README.md lists are the folders that exist', () => {
  const listed = tableBelow('README.md', 'Layout').flatMap(([folder]) => quoted(folder ?? ''));
  const existing = foldersBelow('.').map((folder) => `${folder}/`);
  assert.deepEqual(
    listed.filter((name) => name.endsWith('/')).toSorted(),
    existing.filter((name) => !name.startsWith('.')).toSorted(),
  );
  assert.deepEqual(
    listed.filter((name) => !existsSync(join(ROOT, name))),
    [],
  );
});

test(`README.md has at most ${MAX_README_LINES} lines`, () => {
  const lines = readFileSync(join(ROOT, 'README.md'), 'utf8').split('\n').length - 1;
  assert.ok(lines <= MAX_README_LINES, `${lines} lines`);
});

test('the glossary has each word once', () => {
  const words = tableBelow('docs/glossary.md', 'Words').flatMap(([word = '']) => word.split(', '));
  assert.ok(words.length > 50);
  assert.deepEqual(
    words.filter((word, index) => words.indexOf(word) !== index),
    [],
  );
});
