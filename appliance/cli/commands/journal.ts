// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { BookmarkReport, TimelineReport, WriteReport, WritesReport } from '../../api/schemas/journal.ts';
import { ApplianceError } from '../../core/errors.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { count, formatBytes, formatDuration, formatLocalTime, formatTime, plain, shortIds } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { formatMoment } from '../state-text.ts';
import { type Column, renderTable } from '../table.ts';
import { timelinePicture, timelineSummary } from '../timeline-picture.ts';
import { addWide, type WideOption } from '../wide-option.ts';

interface TimelineOptions extends WideOption {
  readonly from?: string;
  readonly to?: string;
}

interface WritesOptions {
  readonly around?: string;
  readonly within?: string;
  readonly disk?: string;
  readonly offset?: string;
}

const MOMENT_HELP = 'Times are local unless they end in Z or an offset; "5 minutes ago" and now are times, too.';

/** Commands about the journals of machines under continuous protection. */
export function addJournal(program: Command, cli: CliRun): void {
  defineCommand<TimelineOptions>(program, cli, {
    usage: 'timeline <machine>',
    summary: 'show which moments of a machine can be recovered',
    description:
      'Shows what the journal of a machine under continuous protection holds: how much was written when, which stretches ' +
      'of time can be recovered at any moment, the gaps between them, recovery points and bookmarks. A moment of a stretch ' +
      `is named like a point: \`understudy boot NAME@TIME\`. ${MOMENT_HELP}`,
    examples: [
      ['understudy timeline web', 'everything that can be recovered'],
      ['understudy timeline web --from "2 hours ago"', 'the last two hours'],
      ['understudy timeline web --json', 'as a document, for drawing'],
    ],
    options: (command) => addWide(command).option('--from <time>', 'begin there').option('--to <time>', 'end there'),
    action: timeline,
  });
  defineCommand<WritesOptions>(program, cli, {
    usage: 'writes <machine>',
    summary: 'show which parts of the disks changed when',
    description:
      'Lists what was written around a moment, to find when something was damaged: NAME@seq:N with the number before the ' +
      `damage is the state without it. With --disk and --offset only what covers that byte: its history. ${MOMENT_HELP}`,
    examples: [
      ['understudy writes web --around 2026-11-21T10:31:07', 'ten seconds before and after'],
      ['understudy writes web --around "5 minutes ago" --within 1min', 'a minute before and after'],
      ['understudy writes web --disk vda --offset 1048576', 'the history of one place'],
    ],
    options: (command) =>
      command
        .option('--around <moment>', 'a time, bookmark:NAME, or seq:N; needed without --offset')
        .option('--within <duration>', 'how far on both sides: 500ms, 10s, 2min, 1h (default 10s)')
        .option('--disk <name>', 'of this disk only')
        .option('--offset <bytes>', 'only what covers this byte of the disk (also 1MiB)'),
    action: writes,
  });
  defineCommand(program, cli, {
    usage: 'bookmark <machine> <name>',
    summary: 'name this moment of a machine',
    description:
      'Freezes the file systems of a machine under continuous protection through its guest agent, marks the moment in its ' +
      'journal, and lets the guest go on: `understudy boot NAME@bookmark:"TEXT"` is that state later. Without an agent the ' +
      'moment is marked all the same, crash-consistent, and the report says so.',
    examples: [
      ['understudy bookmark web "before the upgrade"', 'now'],
      ['understudy boot web@bookmark:"before the upgrade"', 'later'],
    ],
    action: bookmark,
  });
}

async function timeline(
  run: CommandRun,
  [machine = '']: readonly string[],
  options: TimelineOptions,
): Promise<Outcome> {
  const { from, to, wide } = options;
  const report = await run.call('timeline', defined({ machine, from, to }));
  return { value: report, text: renderTimeline(report, run, wide === true) };
}

function renderTimeline(report: TimelineReport, { paint }: CommandRun, isWide: boolean): string {
  const { from, to, points, bookmarks, gaps } = report;
  const span = formatDuration(Date.parse(to) - Date.parse(from));
  const title = `${paint('bold', plain(report.machine))}  ${formatLocalTime(from)} to ${formatLocalTime(to)} (${span})`;
  const marks = bookmarks.map(
    (one) => `  ${formatLocalTime(one.time)}  ${paint('yellow', plain(one.name))} (${one.consistency})\n`,
  );
  const holes = gaps.map(({ begin, end, reason }) => {
    const length = `${formatDuration(Date.parse(end ?? to) - Date.parse(begin))}${end === null ? ', until now' : ''}`;
    return `  ${formatLocalTime(begin)}  ${length}${reason === null ? '' : `: ${plain(reason)}`}\n`;
  });
  const shortId = isWide ? (id: string): string => id : shortIds(points.map(({ id }) => id));
  const list = points.map((point) => `  ${formatLocalTime(point.time)}  ${shortId(point.id)}  ${point.consistency}\n`);
  return [
    `${title}\n\n${timelinePicture(report, paint)}`,
    `${timelineSummary(report)}\n`,
    section(paint('bold', 'Bookmarks'), marks),
    section(paint(['bold', 'yellow'], 'Gaps: nothing of them can be recovered'), holes),
    isWide ? section(paint('bold', 'Recovery points'), list) : '',
  ]
    .filter((text) => text !== '')
    .join('\n');
}

function section(title: string, lines: readonly string[]): string {
  return lines.length === 0 ? '' : `${title}\n${lines.join('')}`;
}

async function writes(run: CommandRun, [machine = '']: readonly string[], options: WritesOptions): Promise<Outcome> {
  const { around, within, disk, offset } = options;
  if (around === undefined && offset === undefined) {
    throw new ApplianceError('BAD_ARGUMENT', 'say around which moment, or give a --disk and an --offset');
  }
  const report = await run.call('writes', defined({ machine, around, within, disk, offset }));
  return { value: report, text: renderWrites(report, run) };
}

interface WriteRun extends WriteReport {
  readonly count: number;
}

function renderWrites(report: WritesReport, { paint }: CommandRun): string {
  const span = `${formatLocalTime(report.from)} to ${formatLocalTime(report.to)}`;
  if (report.writes.length === 0) return `Nothing was written in the journal of ${plain(report.machine)}, ${span}.\n`;
  const columns: Column<WriteRun>[] = [
    { title: 'TIME', cell: ({ time }) => formatMoment(time) },
    { title: 'SEQUENCE', align: 'right', cell: ({ sequence }) => String(sequence) },
    { title: 'DISK', cell: ({ disk }) => plain(disk) },
    { title: 'OFFSET', align: 'right', cell: ({ offset }) => String(offset) },
    { title: 'LENGTH', align: 'right', cell: ({ length }) => formatBytes(length) },
    {
      title: 'WHAT',
      cell: (one) => (one.recoverable ? '' : '(gap) ') + (one.count > 1 ? `${one.count} × ` : '') + one.kind,
    },
  ];
  const more = report.truncated ? ' There were more: ask for less with --within, --disk or --offset.' : '';
  const summary = `${count(report.writes.length, 'change')}, ${span}.${more}`;
  const hint = `${plain(report.machine)}@seq:N is the state after change N.`;
  return `${renderTable(merged(report.writes), columns, paint)}${paint('dim', `${summary}\n${hint}`)}\n`;
}

/** Changes that continue each other on the disk, one after the other, as one line that has the last one's sequence. */
function merged(list: readonly WriteReport[]): WriteRun[] {
  const runs: WriteRun[] = [];
  for (const write of list) {
    const last = runs.at(-1);
    const continues =
      last !== undefined &&
      last.disk === write.disk &&
      last.kind === write.kind &&
      last.recoverable === write.recoverable &&
      last.sequence + 1 === write.sequence &&
      last.offset + last.length === write.offset;
    if (!continues) runs.push({ ...write, count: 1 });
    else {
      const { offset, length, count: before } = last;
      runs[runs.length - 1] = { ...write, offset, length: length + write.length, count: before + 1 };
    }
  }
  return runs;
}

async function bookmark(run: CommandRun, [machine = '', name = '']: readonly string[]): Promise<Outcome> {
  const report = await run.callService('bookmark', { machine, name });
  return { value: report, text: renderBookmark(report, run) };
}

function renderBookmark(report: BookmarkReport, { paint }: CommandRun): string {
  const name = paint('bold', plain(report.bookmark));
  const notices = report.notices.map((notice) => `  - ${plain(notice)}\n`).join('');
  const state = shellQuoted(
    `${plain(report.machine)}@bookmark:"${report.bookmark.replaceAll(/["\\]/g, String.raw`\$&`)}"`,
  );
  return `${name}: ${formatTime(report.time)}, sequence ${report.sequence}, ${report.consistency}.\n${notices}\`understudy boot ${state}\` starts that state.\n`;
}

function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
