// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { StatusReport } from '../../api/schemas/repository.ts';
import type { CommandRun, Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { count, formatBytes, formatRatio, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { renderFields } from '../table.ts';

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
}

async function status(run: CommandRun): Promise<Outcome> {
  const report = await run.call('status', {});
  return { value: report, text: renderStatus(report, run) };
}

function renderStatus(report: StatusReport, run: CommandRun): string {
  const { logicalBytes, uniqueBytes, storedBytes } = report;
  const service = report.servicePid === null ? 'not running' : `running, process ${report.servicePid}`;
  return renderFields(
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
    ],
    run.paint,
  );
}
