// SPDX-License-Identifier: Apache-2.0
import { type Command, Option } from 'commander';
import type { RestoreParams, RestoreReport } from '../../api/operations.ts';
import { ApplianceError } from '../../core/errors.ts';
import { confirmByName } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { formatBytes, formatDuration, formatTime, plain } from '../format.ts';
import { POINT_ARGUMENT } from '../point-argument.ts';
import type { CliRun } from '../run-cli.ts';
import { stateText } from '../state-text.ts';
import { type Column, indented, renderTable } from '../table.ts';
import { isNbdUri } from './backup.ts';

interface RestoreOptions {
  readonly disk?: string;
  readonly to?: string;
  readonly format?: NonNullable<RestoreParams['format']>;
  readonly as?: string;
  readonly directory?: string;
  readonly inPlace?: boolean;
  readonly yes?: boolean;
}

type Target = RestoreReport['targets'][number];

export function addRestore(program: Command, cli: CliRun): void {
  defineCommand<RestoreOptions>(program, cli, {
    usage: 'restore <point>',
    summary: 'write a recovery point to a file, a device, or a machine',
    description:
      `Writes a recovery point out: one disk with --to (a new file, a block device, or an NBD URI), a whole new machine ` +
      `with --as, or into the disks of the original machine with --in-place, which asks for its name unless --yes is ` +
      `given. --disk can be left out when there is only one. ${POINT_ARGUMENT}`,
    examples: [
      ['understudy restore web@latest --to web.qcow2 --format qcow2', 'one disk to a new file'],
      ['understudy restore 3f2a --disk vdb --to /dev/vg/restore', 'to a block device'],
      ['understudy restore web@latest --as web-2', 'a new machine beside the original'],
      ['understudy restore web@-1 --in-place --yes', 'put the original back, without asking'],
    ],
    options: (command) =>
      command
        .option('--disk <name>', 'the disk to restore, with --to')
        .option('--to <target>', 'a new file, a block device, or an NBD URI')
        .addOption(new Option('--format <format>', 'format of a new file').choices(['raw', 'qcow2', 'vmdk']))
        .option('--as <name>', 'define a new machine of this name')
        .option('--directory <dir>', 'where the disks of the new machine go (default: beside the originals)')
        .option('--in-place', "overwrite the original machine's disks")
        .option('--yes', 'do not ask before --in-place'),
    connects: true,
    action: restore,
  });
}

async function restore(run: CommandRun, [given = '']: readonly string[], options: RestoreOptions): Promise<Outcome> {
  checkCombination(options);
  const { disk, to, format, as, directory, inPlace } = options;
  const point = inPlace === true && options.yes !== true ? await confirmInPlace(run, given) : given;
  const report = await run.call(
    'restore',
    defined({
      point,
      disk,
      to: to === undefined ? undefined : absoluteTarget(run, to),
      format,
      as,
      directory: directory === undefined ? undefined : run.path(directory),
      inPlace,
      connect: run.connect,
    }),
  );
  return { value: report, text: renderRestore(report, run) };
}

function checkCombination(options: RestoreOptions): void {
  const { to, as, inPlace, disk, format, directory } = options;
  const chosen = [to !== undefined, as !== undefined, inPlace === true].filter(Boolean).length;
  if (chosen !== 1) {
    throw new ApplianceError('BAD_ARGUMENT', 'a restore goes to exactly one of --to TARGET, --as NAME, --in-place');
  }
  if (to === undefined && (disk !== undefined || format !== undefined)) {
    throw new ApplianceError('BAD_ARGUMENT', '--disk and --format belong to --to');
  }
  if (as === undefined && directory !== undefined) {
    throw new ApplianceError('BAD_ARGUMENT', '--directory belongs to --as');
  }
}

/** The state that was confirmed, by its id: an expression like `web@latest` may mean another one a moment later. */
async function confirmInPlace(run: CommandRun, given: string): Promise<string> {
  const { point, moment } = await run.call('pointShow', { point: given });
  const { name } = point.machine;
  const disks = point.disks.map((disk) => disk.name).join(', ');
  await confirmByName(run, {
    name,
    consequence: `This overwrites ${disks} of ${name} with the state of ${formatTime(moment?.time ?? point.createdAt)} (${stateText({ point: point.id, moment })}).`,
  });
  return moment === null ? point.id : `${point.machine.id}@seq:${moment.sequence}`;
}

function absoluteTarget(run: CommandRun, to: string): string {
  return isNbdUri(to) ? run.nbdUri(to) : run.path(to);
}

function renderRestore(report: RestoreReport, run: CommandRun): string {
  const columns: Column<Target>[] = [
    { title: 'DISK', cell: (target) => plain(target.disk) },
    { title: 'SIZE', align: 'right', cell: (target) => formatBytes(target.sizeBytes) },
    { title: 'WRITTEN', align: 'right', cell: (target) => formatBytes(target.writtenBytes) },
    { title: 'TO', cell: (target) => plain(target.to) },
  ];
  const machine = report.machine === null ? '' : ` as ${run.paint(['bold', 'green'], plain(report.machine))}`;
  const changes = report.changes.map((change) => `  - ${plain(change)}\n`);
  const changed = changes.length === 0 ? '' : `\nChanged:\n${changes.join('')}`;
  const head = `Restored ${stateText(report)}${machine} in ${formatDuration(report.durationMs)}.`;
  return `${head}\n\n${indented(renderTable(report.targets, columns, run.paint))}${changed}`;
}
