// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { StatusReport } from '../../api/schemas/repository.ts';
import type { CapacityReport, UpkeepReport } from '../../api/schemas/upkeep.ts';
import type { CommandRun, Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { count, formatBytes, formatRatio, formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import type { Paint } from '../style.ts';
import { renderFields, renderTable } from '../table.ts';

/** Defects that are listed; `--json` has all that are remembered. */
const MAX_SHOWN_FINDINGS = 10;

type Room = UpkeepReport['capacity'];

export function addStatus(program: Command, cli: CliRun): void {
  defineCommand(program, cli, {
    usage: 'status',
    summary: 'show what the repository holds',
    description:
      'Shows the repository, how much it holds, and what deduplication and compression saved. Logical is the data of all ' +
      'points as if each stood alone; unique is what is left of it without repetition; stored is what that takes.',
    examples: [
      ['understudy status', 'for people'],
      ['understudy status --json | jq .storedBytes', 'for monitoring'],
    ],
    action: status,
  });
  defineCommand(program, cli, {
    usage: 'capacity',
    summary: 'show how much room is left, and for how long',
    description:
      'Shows the room that the repository has left, how fast it grows, when it will be full at the pace of the last weeks, and ' +
      'which machine takes how much. A forecast takes a week of the running service, which measures once a day.',
    examples: [
      ['understudy capacity', 'for people'],
      ['understudy capacity --json | jq .daysUntilFull', 'for monitoring; null when that is not known'],
    ],
    action: capacity,
  });
}

async function status(run: CommandRun): Promise<Outcome> {
  const report = await run.call('status', {});
  return { value: report, text: renderStatus(report, run) };
}

async function capacity(run: CommandRun): Promise<Outcome> {
  const report = await run.call('capacity', {});
  return { value: report, text: renderCapacity(report, run) };
}

function renderCapacity(report: CapacityReport, run: CommandRun): string {
  const { storedBytes, logicalBytes, uniqueBytes, growthBytesPerDay, historyDays } = report;
  const history = `not enough history: ${historyDays.toFixed(1)} days of 7`;
  const fields = renderFields(
    [
      ['logical', formatBytes(logicalBytes)],
      ['unique', formatBytes(uniqueBytes)],
      ['stored', formatBytes(storedBytes)],
      ['grows by', growthBytesPerDay === null ? history : `${signedBytes(growthBytesPerDay)} a day`],
      ['free', roomLeft(report, run)],
    ],
    run.paint,
  );
  if (report.machines.length === 0) return fields;
  const machines = renderTable(
    report.machines,
    [
      { title: 'MACHINE', cell: ({ name }) => plain(name) },
      { title: 'POINTS', align: 'right', cell: ({ points }) => String(points) },
      { title: 'LOGICAL', align: 'right', cell: (machine) => formatBytes(machine.logicalBytes) },
      { title: 'ADDED', align: 'right', cell: ({ addedBytes }) => formatBytes(addedBytes) },
    ],
    run.paint,
  );
  return `${fields}\n${machines}`;
}

/** `120 GiB of 400 GiB, full in 80 days`, in a colour that fits. */
function roomLeft({ level, freeBytes, totalBytes, daysUntilFull }: Room, { paint }: CommandRun): string {
  const until =
    daysUntilFull === null ? '' : `, full in ${daysUntilFull < 2 ? daysUntilFull : Math.round(daysUntilFull)} days`;
  const text = `${formatBytes(freeBytes)} of ${formatBytes(totalBytes)}${until}`;
  return level === 'ok' ? text : paint(['bold', level === 'critical' ? 'red' : 'yellow'], `${text}: make room`);
}

function signedBytes(bytes: number): string {
  return bytes < 0 ? `-${formatBytes(-bytes)}` : formatBytes(bytes);
}

function choreText({ lastAt, problem }: UpkeepReport['scrub'], nothing: string, paint: Paint): string {
  const last = lastAt === null ? nothing : formatTime(lastAt);
  return problem === null ? last : `${last}  ${paint('red', `failed: ${plain(problem)}`)}`;
}

function scrubText({ scrub, round }: UpkeepReport, storedBytes: number, paint: Paint): string {
  const share = storedBytes === 0 ? 100 : Math.min(100, Math.floor((100 * round.readBytes) / storedBytes));
  const whole = round.lastEndedAt === null ? '' : `; everything by ${formatTime(round.lastEndedAt)}`;
  const part = scrub.lastAt === null ? '' : `  (${share} % of this round${whole})`;
  return `${choreText(scrub, 'not yet', paint)}${part}`;
}

function renderFindings({ findings, omittedFindings }: UpkeepReport, paint: Paint): string {
  if (findings.length === 0) return '';
  const lines = findings.slice(0, MAX_SHOWN_FINDINGS).map(({ object, what, points }) => {
    const touched = points.length === 0 ? 'no recovery point needs it' : `it touches ${points.join(', ')}`;
    return `  ${plain(object)}: ${plain(what)}; ${touched}\n`;
  });
  const rest = findings.length - lines.length + omittedFindings;
  const more = rest > 0 ? `  and ${count(rest, 'more', 'more')} (--json has them)\n` : '';
  return `\n${paint(['bold', 'red'], `${count(findings.length + omittedFindings, 'defect')}:`)}\n${lines.join('')}${more}`;
}

function renderStatus(report: StatusReport, run: CommandRun): string {
  const { logicalBytes, uniqueBytes, storedBytes } = report;
  const service = report.servicePid === null ? 'not running' : `running, process ${report.servicePid}`;
  const { upkeep } = report;
  const fields = renderFields(
    [
      ['repository', plain(report.repository)],
      ['id', report.repositoryId],
      ['state', plain(report.state)],
      ['encryption', report.encryption === 'none' ? 'none' : report.encryption.toUpperCase()],
      ['chunks of', formatBytes(report.chunkBytes)],
      ['service', service],
      ['holds', `${count(report.points, 'point')} of ${count(report.machines, 'machine')}`],
      ['logical', formatBytes(logicalBytes)],
      ['unique', `${formatBytes(uniqueBytes)}  (deduplication ${formatRatio(logicalBytes, uniqueBytes)})`],
      ['stored', `${formatBytes(storedBytes)}  (compression ${formatRatio(uniqueBytes, storedBytes)})`],
      ['free', roomLeft(upkeep.capacity, run)],
      ['collected', choreText(upkeep.collection, 'not yet', run.paint)],
      ['scrubbed', scrubText(upkeep, storedBytes, run.paint)],
    ],
    run.paint,
  );
  return `${fields}${renderFindings(upkeep, run.paint)}`;
}
