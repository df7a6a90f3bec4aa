// SPDX-License-Identifier: Apache-2.0
import { styleText } from 'node:util';
import { formatDuration, plain } from '../appliance/cli/format.ts';

type Format = Parameters<typeof styleText>[0];

/** What the demo claims, and whether it held. */
export interface Claim {
  readonly text: string;
  readonly holds: boolean;
}

const MAX_WIDTH = 100;
const MIN_OUTPUT_WIDTH = 40;
const INDENT = '    ';
/** Room for the time at the right edge. */
const TIME_WIDTH = 10;

/**
 * What people see: numbered acts, each with a sentence, the commands, their output, and marked results with the measured
 * time at the right edge. Colours and the moving line only on a terminal; `NO_COLOR` turns colours off.
 */
export class Show {
  readonly claims: Claim[] = [];
  readonly #stream: NodeJS.WriteStream;
  readonly #hasColour: boolean;
  #act = 0;
  #isBusy = false;

  constructor(stream: NodeJS.WriteStream, env: NodeJS.ProcessEnv) {
    this.#stream = stream;
    this.#hasColour = stream.isTTY && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb';
  }

  get isTerminal(): boolean {
    return this.#stream.isTTY;
  }

  title(text: string, remarks: readonly string[]): void {
    this.#write(`\n${this.#paint('bold', text)}\n${remarks.map((remark) => `${remark}\n`).join('')}`);
  }

  act(title: string, sentence: string): void {
    const number = String(++this.#act).padStart(2);
    this.#write(`\n${this.#paint(['bold', 'cyan'], number)}  ${this.#paint('bold', title)}\n`);
    for (const line of wrapped(sentence, MAX_WIDTH - INDENT.length)) this.#write(`${INDENT}${line}\n`);
  }

  /** The command line that runs now, ready to be copied. */
  command(line: string, prompt: string = '$'): void {
    this.#write(`${INDENT}${this.#paint('dim', prompt)} ${this.#paint('cyan', line)}\n`);
  }

  /** What a program printed: sentences are wrapped, lines of tables that do not fit are cut. */
  output(text: string): void {
    const width = Math.max(MIN_OUTPUT_WIDTH, (this.#stream.columns ?? MAX_WIDTH) - INDENT.length - 2);
    for (const line of text.trimEnd().split('\n')) {
      for (const part of fitted(plain(line).trimEnd(), width))
        this.#write(`${INDENT}${this.#paint('dim', `│ ${part}`)}\n`);
    }
  }

  /** A line that says what is going on, until the next one is written; on a terminal only. */
  busy(text: string): void {
    if (!this.isTerminal) return;
    this.#clearBusy();
    this.#stream.write(`${INDENT}${this.#paint('dim', `… ${text}`)}`);
    this.#isBusy = true;
  }

  /** Something that was done, and how long it took. */
  done(text: string, durationMs?: number): void {
    this.#result(this.#paint('green', '•'), text, durationMs);
  }

  /** Something that is claimed, and was checked just now. */
  claim(text: string, holds: boolean, durationMs?: number): void {
    this.claims.push({ text, holds });
    if (holds) this.#result(this.#paint('green', '✓'), text, durationMs);
    else this.#result(this.#paint('red', '✗'), this.#paint('red', `does not hold: ${text}`), durationMs);
  }

  problem(text: string): void {
    for (const line of text.trimEnd().split('\n')) this.#write(`${this.#paint('red', line)}\n`);
  }

  remark(text: string): void {
    for (const line of wrapped(text, MAX_WIDTH - INDENT.length)) this.#write(`${INDENT}${this.#paint('dim', line)}\n`);
  }

  /** Lines as they are, for what is to be copied. */
  lines(lines: readonly string[]): void {
    for (const line of lines) this.#write(`${line}\n`);
  }

  /** Rows of a name and its values, aligned; the last column takes the rest. */
  table(title: string, rows: readonly (readonly string[])[]): void {
    this.#write(`\n${this.#paint('bold', title)}\n`);
    const columns = Math.max(...rows.map((row) => row.length));
    const widths = Array.from({ length: columns }, (_, column) =>
      Math.max(...rows.map((row) => row[column]?.length ?? 0)),
    );
    for (const row of rows) {
      const cells = row.map((cell, column) => {
        if (column === row.length - 1 && column !== 1) return cell;
        return column === 1 ? this.#paint('bold', cell.padStart(widths[1] ?? 0)) : cell.padEnd(widths[column] ?? 0);
      });
      this.#write(`${INDENT}${cells.join('  ').trimEnd()}\n`);
    }
  }

  verdict(text: string, isGood: boolean): void {
    this.#write(`\n${this.#paint(['bold', isGood ? 'green' : 'red'], text)}\n`);
  }

  #result(mark: string, text: string, durationMs: number | undefined): void {
    if (durationMs === undefined) {
      this.#write(`${INDENT}${mark} ${text}\n`);
      return;
    }
    const time = formatDuration(durationMs).padStart(TIME_WIDTH);
    const width = MAX_WIDTH - INDENT.length - 2 - TIME_WIDTH;
    this.#write(`${INDENT}${mark} ${text.padEnd(width)}${this.#paint('bold', time)}\n`);
  }

  #write(text: string): void {
    this.#clearBusy();
    this.#stream.write(text);
  }

  #clearBusy(): void {
    if (this.#isBusy) this.#stream.write('\r\x1b[2K');
    this.#isBusy = false;
  }

  #paint(format: Format, text: string): string {
    return this.#hasColour ? styleText(format, text, { validateStream: false }) : text;
  }
}

/** A line of a table has gaps; it makes sense in one piece only. */
const TABLE_LINE = /\S {2,}\S/;

function fitted(line: string, width: number): string[] {
  if (line.length <= width) return [line];
  if (TABLE_LINE.test(line)) return [`${line.slice(0, width - 1)}…`];
  const indent = /^ */.exec(line)?.[0] ?? '';
  return wrapped(line.trim(), width - indent.length).map((part) => indent + part);
}

function wrapped(text: string, width: number): string[] {
  const lines: string[] = [''];
  for (const word of text.split(' ')) {
    const line = lines.at(-1) ?? '';
    if (line !== '' && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines;
}
