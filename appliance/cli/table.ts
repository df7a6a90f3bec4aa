// SPDX-License-Identifier: Apache-2.0
import Table from 'cli-table3';
import type { Paint } from './style.ts';

export interface Column<Row> {
  readonly title: string;
  readonly align?: 'left' | 'right';
  readonly cell: (row: Row) => string;
}

const GAP = '  ';
const BORDERS =
  'top top-mid top-left top-right bottom bottom-mid bottom-left bottom-right left left-mid mid mid-mid right right-mid'.split(
    ' ',
  );
const NO_BORDERS = Object.fromEntries(BORDERS.map((name) => [name, '']));

/** Rows beneath bold titles, columns aligned, without lines: as easy to read as to cut with awk. Ends with a line feed. */
export function renderTable<Row>(rows: readonly Row[], columns: readonly Column<Row>[], paint: Paint): string {
  const table = borderless(columns.map((column) => column.align ?? 'left'));
  table.push(columns.map((column) => paint('bold', column.title)));
  for (const row of rows) table.push(columns.map((column) => column.cell(row)));
  return trimmed(table.toString());
}

/** Names and values beneath each other, indented; values may not contain line feeds. Ends with a line feed. */
export function renderFields(fields: readonly (readonly [name: string, value: string])[], paint: Paint): string {
  const table = borderless(['left', 'left']);
  for (const [name, value] of fields) table.push([paint('dim', name), value]);
  return indented(trimmed(table.toString()));
}

export function indented(text: string, by: string = GAP): string {
  return text.replace(/^(?=.)/gm, by);
}

/** Text in lines of at most so many characters, broken at spaces; a longer word is cut. */
export function wrapped(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = '';
  const words = text.split(' ').flatMap((word) => word.match(new RegExp(`.{1,${columns}}`, 'gu')) ?? []);
  for (const word of words) {
    if (line !== '' && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

function borderless(aligns: ('left' | 'right')[]): Table.Table {
  return new Table({
    chars: { ...NO_BORDERS, middle: GAP },
    style: { head: [], border: [], compact: true, 'padding-left': 0, 'padding-right': 0 },
    colAligns: aligns,
  });
}

function trimmed(text: string): string {
  return `${text.replace(/[ \t]+$/gm, '')}\n`;
}
