// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { Progress } from '../../api/operations.ts';
import type { RunReport, RunSummary } from '../../api/schemas/runs.ts';
import { ApplianceError } from '../../core/errors.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { count, formatDuration, formatTime, plain, shortIds } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, indented, renderFields, renderTable } from '../table.ts';

interface ListOptions {
  readonly last?: string;
}

/** Runs that are listed when nothing is said. */
const DEFAULT_LAST = 50;
const MAX_LAST = 1_000_000;

const ID = 'The beginning of an id is as good as all of it.';

export function addRuns(program: Command, cli: CliRun): void {
  const group = defineGroup(program, 'runs', 'show what ran and what runs, and stop it');
  defineCommand<ListOptions>(group, cli, {
    usage: 'list',
    isDefault: true,
    summary: 'list the runs, newest first',
    description:
      'Lists what takes its time and was done by the service: backups, restores, checks, …, with how far they are or how they ended, ' +
      `newest first. \`understudy runs\` is the same. ${ID}`,
    examples: [
      ['understudy runs', 'the newest ones'],
      ['understudy runs --last 500', 'more of them'],
    ],
    options: (command) => command.option('--last <count>', `so many, the newest (default: ${DEFAULT_LAST})`),
    action: list,
  });
  defineCommand(group, cli, {
    usage: 'show <id>',
    summary: 'show a run with its notices and its result',
    description: `Shows how far a run is or how it ended, what it was asked for, and what it had to say. ${ID}`,
    examples: [['understudy runs show 3f2a', 'by the beginning of its id']],
    action: show,
  });
  defineCommand(group, cli, {
    usage: 'cancel <id>',
    summary: 'stop a run at a safe place',
    description: `Asks a run to stop at a safe place, and waits for its end; nothing half-done is left. ${ID}`,
    examples: [['understudy runs cancel 3f2a', 'as Ctrl-C in the command that started it']],
    action: cancel,
  });
}

async function list(run: CommandRun, _args: readonly string[], options: ListOptions): Promise<Outcome> {
  const found = await run.call('runs', { last: lastOf(options) });
  if (found.length === 0) return { value: found, text: 'Nothing has run yet.\n' };
  const table = renderTable(found, columns(shortIds(found.map(({ id }) => id))), run.paint);
  return { value: found, text: `${table}${run.paint('dim', count(found.length, 'run'))}\n` };
}

async function show(run: CommandRun, [id = '']: readonly string[]): Promise<Outcome> {
  return outcomeOf(run, await run.call('runShow', { id }));
}

async function cancel(run: CommandRun, [id = '']: readonly string[]): Promise<Outcome> {
  return outcomeOf(run, await run.call('runCancel', { id }));
}

function lastOf({ last }: ListOptions): number {
  const count = last === undefined ? DEFAULT_LAST : Number(last);
  if (Number.isInteger(count) && count >= 1 && count <= MAX_LAST) return count;
  throw new ApplianceError('BAD_ARGUMENT', `--last must be from 1 to ${MAX_LAST}`);
}

function columns(short: (id: string) => string): readonly Column<RunSummary>[] {
  return [
    { title: 'ID', cell: ({ id }) => short(id) },
    { title: 'OPERATION', cell: ({ operation }) => plain(operation) },
    { title: 'MACHINE', cell: ({ machine }) => plain(machine ?? '-') },
    { title: 'STARTED', cell: ({ startedAt, createdAt }) => formatTime(startedAt ?? createdAt) },
    { title: 'TOOK', align: 'right', cell: tookOf },
    { title: 'STATE', cell: stateOf },
  ];
}

function tookOf({ startedAt, endedAt }: RunSummary): string {
  return startedAt === null || endedAt === null ? '-' : formatDuration(Date.parse(endedAt) - Date.parse(startedAt));
}

function stateOf({ state, progress, error }: RunSummary): string {
  if (state === 'running' && progress !== null) return `running, ${progressOf(progress)}`;
  return error === null || state === 'cancelled' ? state : `${state}: ${error.code}`;
}

function progressOf({ phase, done, total }: Progress): string {
  return total > 0 ? `${plain(phase)} ${Math.floor((100 * done) / total)}%` : plain(phase);
}

function outcomeOf(run: CommandRun, report: RunReport): Outcome {
  const { startedBy, params, notices, error } = report;
  const fields: readonly (readonly [name: string, value: string])[] = [
    ['Machine', plain(report.machine ?? '-')],
    ['State', stateOf(report)],
    ['Started by', plain(`${startedBy.name} (${startedBy.kind})`)],
    ['Created', formatTime(report.createdAt)],
    ['Started', report.startedAt === null ? '-' : formatTime(report.startedAt)],
    ['Ended', report.endedAt === null ? '-' : formatTime(report.endedAt)],
    ['Asked for', plain(JSON.stringify(params))],
    ...(error === null ? [] : [['Error', plain(`${error.code}: ${error.message}`)] as const]),
  ];
  const said = notices.length === 0 ? '' : `Notices:\n${indented(notices.map((one) => `${plain(one)}\n`).join(''))}`;
  const title = `${run.paint('bold', report.operation)} ${report.id}`;
  return { value: defined(report), text: `${title}\n${renderFields(fields, run.paint)}${said}` };
}
