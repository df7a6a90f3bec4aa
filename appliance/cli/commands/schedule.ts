// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { ScheduleEntry, ScheduleReport } from '../../api/schemas/policies.ts';
import type { CommandRun, Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { count, formatDuration, formatLocalTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, renderTable } from '../table.ts';

export function addSchedule(program: Command, cli: CliRun): void {
  defineCommand(program, cli, {
    usage: 'schedule',
    summary: 'show what the policies do next, and why not now',
    description:
      'Shows each machine that has a policy: when it runs next, how old its newest state is and may be, and why it does not run now; ' +
      'then the machines that nobody protects.',
    examples: [['understudy schedule', 'all machines']],
    action: schedule,
  });
}

async function schedule(run: CommandRun): Promise<Outcome> {
  const report = await run.call('schedule', {});
  return { value: report, text: render(report, run) };
}

function render(
  { isRunning, retentionProblem, hosts, machines, unprotected }: ScheduleReport,
  run: CommandRun,
): string {
  const columns: Column<ScheduleEntry>[] = [
    { title: 'MACHINE', cell: ({ machine }) => plain(machine) },
    { title: 'POLICY', cell: ({ policy }) => plain(policy) },
    { title: 'NEXT', cell: ({ dueAt }) => (dueAt === null ? '–' : formatLocalTime(dueAt)) },
    { title: 'RPO', align: 'right', cell: (entry) => rpoText(entry, run) },
    { title: 'WHY', cell: ({ reason }) => plain(reason) },
  ];
  const table = machines.length === 0 ? 'No machine has a policy.\n' : renderTable(machines, columns, run.paint);
  const nobody = unprotected.map(({ machine, reason }) => `  ${plain(machine)}: ${plain(reason)}\n`);
  const list =
    nobody.length === 0
      ? ''
      : `\n${run.paint('yellow', `${count(nobody.length, 'machine')} not protected by a policy:`)}\n${nobody.join('')}`;
  const problems = [
    ...(isRunning ? [] : ['no service works on this: `understudy serve` does']),
    ...hosts.flatMap(({ uri, problem }) => (problem === null ? [] : [`${uri} does not answer: ${problem}`])),
    ...(retentionProblem === null ? [] : [retentionProblem]),
  ];
  const notes = problems.length === 0 ? '' : `\n${problems.map((problem) => `  - ${plain(problem)}\n`).join('')}`;
  return `${table}${list}${notes}`;
}

/** How old the newest state is, of how old it may be. */
function rpoText({ rpoNowMs, rpoTargetMs }: ScheduleEntry, run: CommandRun): string {
  const of = ` / ${formatDuration(rpoTargetMs)}`;
  if (rpoNowMs === null) return run.paint('yellow', `none${of}`);
  const text = `${formatDuration(rpoNowMs)}${of}`;
  return rpoNowMs > rpoTargetMs ? run.paint('red', text) : text;
}
