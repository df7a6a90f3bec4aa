// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join, posix } from 'node:path';

/** The project's folder. */
export const ROOT: string = join(import.meta.dirname, '../..');

/** What is not ours, or not source: packages, caches, version control, and what a run of the appliance leaves behind. */
const IGNORED = new Set(['node_modules', '.git', '.cache', '.node', 'coverage', 'state', 'dist']);

/** One file of the project, with its path from the root (`appliance/core/errors.ts`). */
export interface SourceFile {
  readonly path: string;
  readonly text: string;
}

export interface ImportStatement {
  /** As written. */
  readonly specifier: string;
  readonly isTypeOnly: boolean;
  /** Path from the root for relative imports, undefined for packages and `node:` modules. */
  readonly target: string | undefined;
}

/** All files below a folder (the whole project without an argument) whose names pass, in order of path. */
export function projectFiles(under = '.', isWanted: (path: string) => boolean = () => true): SourceFile[] {
  const files: SourceFile[] = [];
  const visit = (folder: string): void => {
    for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
      const path = posix.join(folder, entry.name);
      if (IGNORED.has(entry.name)) continue;
      if (entry.isDirectory()) visit(path);
      else if (entry.isFile() && isWanted(path)) files.push({ path, text: readFileSync(join(ROOT, path), 'utf8') });
    }
  };
  visit(under);
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** Every TypeScript file of the project. */
export function typeScriptFiles(): SourceFile[] {
  return projectFiles('.', (path) => path.endsWith('.ts'));
}

/** Every Markdown page of the project. */
export function markdownPages(): SourceFile[] {
  return projectFiles('.', (path) => path.endsWith('.md'));
}

/** Folders directly below a folder that hold at least one file. */
export function foldersBelow(under: string): string[] {
  return readdirSync(join(ROOT, under))
    .filter((name) => !IGNORED.has(name) && statSync(join(ROOT, under, name)).isDirectory())
    .filter((name) => projectFiles(posix.join(under, name)).length > 0);
}

const IMPORT_FORMS = [
  /^\s*(?:import|export)\s+(?<type>type\s)?[^'";]*?\bfrom\s*'(?<specifier>[^']+)'/gm,
  /^\s*import\s+'(?<specifier>[^']+)'/gm,
  /\bimport\(\s*'(?<specifier>[^']+)'/g,
  /\brequire\(\s*'(?<specifier>[^']+)'/g,
  // How a worker thread is started.
  /\bnew URL\(\s*'(?<specifier>\.[^']+\.ts)'\s*,\s*import\.meta\.url/g,
];

/** Every import, re-export, dynamic import and worker of a file. */
export function importsOf({ path, text }: SourceFile): ImportStatement[] {
  return IMPORT_FORMS.flatMap((form) =>
    [...text.matchAll(form)].map((match): ImportStatement => {
      const specifier = match.groups?.['specifier'] ?? '';
      const isRelative = specifier.startsWith('.');
      return {
        specifier,
        isTypeOnly: match.groups?.['type'] !== undefined || hasOnlyTypeNames(match[0]),
        target: isRelative ? posix.join(posix.dirname(path), specifier) : undefined,
      };
    }),
  );
}

/** `import { type A, type B } from …` names types only, too. */
function hasOnlyTypeNames(statement: string): boolean {
  const names = /\{(?<names>[^}]*)\}\s*from/.exec(statement)?.groups?.['names'];
  if (names === undefined || /\b(import|export)\s+\w+\s*,/.test(statement)) return false;
  return names
    .split(',')
    .filter((name) => name.trim() !== '')
    .every((name) => name.trim().startsWith('type '));
}

/** The source with comment lines blanked, line numbers kept. Comments behind code stay. */
export function codeLines(text: string): string[] {
  let isInBlock = false;
  return text.split('\n').map((line) => {
    const trimmed = line.trim();
    const isComment = isInBlock || trimmed.startsWith('//') || trimmed.startsWith('/*');
    if (trimmed.startsWith('/*')) isInBlock = true;
    if (isInBlock && trimmed.endsWith('*/')) isInBlock = false;
    return isComment ? '' : line;
  });
}

/** The cells of the first Markdown table below a heading (of any level), without its header. */
export function tableBelow(page: string, heading: string): string[][] {
  const text = readFileSync(join(ROOT, page), 'utf8');
  const lines = text.split('\n');
  const start = lines.findIndex((line) => /^#+ /.test(line) && line.replace(/^#+ /, '') === heading);
  if (start === -1) throw new Error(`${page} has no heading "${heading}"`);
  const from = lines.findIndex((line, index) => index > start && line.startsWith('|'));
  const rows: string[][] = [];
  for (const line of lines.slice(from)) {
    if (!line.startsWith('|')) break;
    rows.push(
      line
        .slice(1, line.lastIndexOf('|'))
        .split('|')
        .map((cell) => cell.trim()),
    );
  }
  return rows.slice(2);
}

/** What stands between back quotes in a text. */
export function quoted(text: string): string[] {
  return [...text.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? '');
}
