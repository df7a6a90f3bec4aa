// SPDX-License-Identifier: Apache-2.0
import type { Usage } from './bench-run.ts';
import { type Comparison, ratioOf, targetText, type Unit, verdictOf } from './comparison.ts';
import type { DiskContents, DiskInput } from './disk-input.ts';
import type { MachineFacts } from './machine.ts';
import { median } from './statistics.ts';

export interface BenchReport {
  readonly command: string;
  readonly startedAt: string;
  readonly durationSeconds: number;
  readonly machine: MachineFacts;
  /** Undefined for programs without an input disk. */
  readonly input: DiskInput | undefined;
  readonly rounds: number;
  readonly comparisons: readonly Comparison[];
  /** Of every process of ours. */
  readonly usages: readonly Usage[];
}

/** For a terminal: one block per line of the benchmark. */
export function textReport(report: BenchReport): string {
  const lines = [...headLines(report), ''];
  for (const comparison of report.comparisons) {
    const { what, unit, ours, other, target } = comparison;
    const verdict = verdictOf(comparison);
    const ratio = ratioOf(comparison);
    lines.push(`${verdict.padEnd(13)}${what}`);
    lines.push(`             ${ours.label}: ${series(ours.samples, unit)}`);
    if (other !== undefined) lines.push(`             ${other.label}: ${series(other.samples, unit)}`);
    const goal = target.kind === 'none' ? '' : `   target ${targetText(target, unit)}`;
    lines.push(`             ${ratio === undefined ? '' : `ratio ${ratio.toFixed(2)} ×`}${goal}`.trimEnd());
    const remarks = comparison.remark === undefined ? [] : [comparison.remark];
    for (const note of [...remarks, ...(comparison.notes ?? [])]) lines.push(`             (${note})`);
    lines.push('');
  }
  return lines.join('\n');
}

/** The table of docs/benchmarks.md, with the machine and the command above it. */
export function markdownReport(report: BenchReport): string {
  const lines = headLines(report).map((line) => `* ${line}`);
  lines.push('', '| what | Understudy | other | ratio | target | |', '| --- | --- | --- | --- | --- | --- |');
  const notes: string[] = [];
  for (const comparison of report.comparisons) {
    const { what, unit, ours, other, target } = comparison;
    const ratio = ratioOf(comparison);
    let marks = '';
    for (const note of comparison.notes ?? []) {
      if (!notes.includes(note)) notes.push(note);
      marks += ` [${notes.indexOf(note) + 1}]`;
    }
    const cells = [
      `${what}${marks}`,
      cell(ours.samples, unit),
      other === undefined ? (comparison.remark ?? '') : `${other.label}: ${cell(other.samples, unit)}`,
      ratio === undefined ? '' : `${ratio.toFixed(2)} ×`,
      targetText(target, unit),
      verdictOf(comparison),
    ];
    lines.push(`| ${cells.join(' | ')} |`);
  }
  lines.push('', 'Median (smallest) of the runs.', '', ...notes.map((note, n) => `${n + 1}. ${note}`), '');
  return lines.join('\n');
}

/** A page with the report between the two marks of a program, or, of a page without them, the report alone. */
export function intoPage(page: string, markdown: string, mark: string): string {
  const opening = `<!-- ${mark}:begin -->`;
  const begin = page.indexOf(opening);
  const end = page.indexOf(`<!-- ${mark}:end -->`);
  if (begin < 0 || end < begin) return markdown;
  return `${page.slice(0, begin + opening.length)}\n${markdown.trimEnd()}\n${page.slice(end)}`;
}

function headLines({ machine, input, rounds, command, startedAt, durationSeconds }: BenchReport): string[] {
  return [
    `\`${command}\`, ${startedAt.slice(0, 10)}, ${(durationSeconds / 60).toFixed(0)} minutes; ${rounds} rounds, contenders interleaved`,
    `${machine.cores} cores (${machine.model}), ${machine.memoryGib} GiB memory, ${machine.distribution}, kernel ${machine.kernel}; load average ${machine.loadAtStart.toFixed(1)} at the start`,
    `Node ${machine.node}; ${machine.peers.join('; ')}`,
    ...(input === undefined ? [] : [`Input: ${describe(input)}`]),
  ];
}

function describe({ sizeBytes, dataBytes, contents }: DiskInput): string {
  return `${gib(sizeBytes)} disk, ext4, ${gib(dataBytes)} allocated: ${describeContents(contents)}`;
}

function describeContents({ files, fileCount, logs, database, random }: DiskContents): string {
  return (
    `${gib(files)} in ${fileCount} files of this machine (programs, libraries, their data), ${gib(logs)} generated logs, ` +
    `${gib(database)} generated database pages, ${gib(random)} random`
  );
}

function gib(bytes: number): string {
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(0)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/** Median, and the smallest where it says more. */
function cell(samples: readonly number[], unit: Unit): string {
  if (samples.length === 0) return '';
  if (samples.length === 1) return `${number(median(samples))} ${unit}`.trimEnd();
  return `${number(median(samples))} ${unit} (${number(Math.min(...samples))})`;
}

function series(samples: readonly number[], unit: Unit): string {
  if (samples.length === 0) return 'not measured';
  const all = samples.length === 1 ? '' : `   [${samples.map(number).join(', ')}]`;
  return `median ${number(median(samples))} ${unit}, min ${number(Math.min(...samples))}${all}`;
}

function number(value: number): string {
  if (Number.isInteger(value)) return String(value);
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toFixed(digits);
}
