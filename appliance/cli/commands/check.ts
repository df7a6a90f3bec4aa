// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { CheckFinding, CheckReport, RebuildReport } from '../../api/schemas/repository.ts';
import { EXIT_CODES } from '../../core/error-codes.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { count, formatBytes, formatDuration, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import type { Paint } from '../style.ts';

/** Places of one defect that are listed; `--json` has all. */
const MAX_SHOWN_PLACES = 10;

interface CheckOptions {
  readonly readData?: boolean;
  readonly slice?: boolean;
}

export function addCheck(program: Command, cli: CliRun): void {
  defineCommand<CheckOptions>(program, cli, {
    usage: 'check',
    summary: 'check that every recovery point can be restored',
    description:
      'Follows every recovery point through the repository and checks that all of it is there. With --read-data every ' +
      'byte is also read, decrypted and compared with its id, which takes as long as reading the repository. Defects ' +
      'are named with the points and disks that they touch; the exit code is 5 then.',
    examples: [
      ['understudy check', 'is everything there?'],
      ['understudy check --read-data', 'and is it intact, to the last bit?'],
    ],
    options: (command) =>
      command
        .option('--read-data', 'read and verify all data')
        .option('--slice', 'read and verify the next 28th of the data, as the service does each day'),
    action: check,
  });
  const catalog = defineGroup(program, 'catalog', 'make the catalog again from the repository');
  defineCommand(catalog, cli, {
    usage: 'rebuild',
    summary: 'make the catalog again from the repository',
    description:
      'Throws the catalog away and makes it again from the repository alone, with every recovery point: after it was ' +
      'damaged or deleted, or after `init --from`. Problems that it finds are listed; the exit code is 5 then.',
    examples: [['understudy catalog rebuild', 'the repository is only read']],
    action: rebuild,
  });
}

async function check(run: CommandRun, _args: readonly string[], { readData, slice }: CheckOptions): Promise<Outcome> {
  const report = await run.call('check', defined({ readData, slice }));
  return {
    value: report,
    text: renderCheck(report, run.paint),
    exitCode: report.ok ? EXIT_CODES.ok : EXIT_CODES.corrupt,
  };
}

async function rebuild(run: CommandRun): Promise<Outcome> {
  const report = await run.call('catalogRebuild', {});
  const isGood = report.problems.length === 0;
  return {
    value: report,
    text: renderRebuild(report, run.paint),
    exitCode: isGood ? EXIT_CODES.ok : EXIT_CODES.corrupt,
  };
}

function renderCheck(report: CheckReport, paint: Paint): string {
  const checked = [
    count(report.points, 'point'),
    count(report.packs, 'pack'),
    count(report.nodes, 'node'),
    count(report.chunks, 'chunk'),
  ];
  const depth = report.readData ? `${formatBytes(report.readBytes)} read and verified` : 'presence only, no data read';
  const head = `Checked ${checked.join(', ')} in ${formatDuration(report.durationMs)} (${depth}).\n`;
  if (report.ok) return `${head}${paint(['bold', 'green'], 'No defects.')}\n`;
  const findings = report.findings.map((finding) => renderFinding(finding, paint));
  const points = new Set(report.findings.flatMap((finding) => finding.touches.map((touch) => touch.point))).size;
  const verdict = `${count(report.findings.length, 'defect')}, touching ${count(points, 'point')}.`;
  return `${head}\n${findings.join('\n')}\n${paint(['bold', 'red'], verdict)}\n`;
}

function renderFinding(finding: CheckFinding, paint: Paint): string {
  const places = finding.touches.slice(0, MAX_SHOWN_PLACES).map((touch) => {
    const range = `${formatBytes(touch.length)} at offset ${touch.offset.toLocaleString('en-US')}`;
    return `  point ${touch.point} of ${plain(touch.machine)}, disk ${plain(touch.disk)}, ${range}\n`;
  });
  const rest = finding.touches.length - places.length;
  const more = rest > 0 ? `  and ${count(rest, 'more place', 'more places')} (--json has all)\n` : '';
  const isContent = finding.object === 'catalog' || finding.object.startsWith('packs/');
  const none = isContent && finding.touches.length === 0 ? '  no recovery point needs it\n' : '';
  return `${paint('red', plain(finding.what))}: ${plain(finding.object)}\n${places.join('')}${more}${none}`;
}

function renderRebuild(report: RebuildReport, paint: Paint): string {
  const found = [count(report.points, 'point'), count(report.packs, 'pack'), count(report.chunks, 'chunk')];
  const head = `The catalog was made again in ${formatDuration(report.durationMs)}: ${found.join(', ')}.\n`;
  return `${head}${report.problems.map((problem) => `${paint('red', 'problem:')} ${plain(problem)}\n`).join('')}`;
}
