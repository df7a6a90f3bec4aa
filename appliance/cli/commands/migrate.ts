// SPDX-License-Identifier: Apache-2.0
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { MigrateParams, MigrateReport } from '../../api/operations.ts';
import { ApplianceError } from '../../core/errors.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { formatBytes, formatDuration, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, indented, renderTable } from '../table.ts';

interface MigrateOptions {
  readonly dir?: string;
  readonly pool?: string;
  readonly format?: NonNullable<MigrateParams['format']>;
  readonly bandwidth?: number;
  readonly as?: string;
  readonly autostart?: boolean;
  /** False with `--no-verify`. */
  readonly verify: boolean;
}

const MIB: number = 2 ** 20;
const MOST_MIB: number = 2 ** 30;

export function addMigrate(program: Command, cli: CliRun): void {
  defineCommand<MigrateOptions>(program, cli, {
    usage: 'migrate <name>',
    summary: 'move a booted machine to production storage while it runs',
    description:
      'Moves a machine that was started with `boot` to storage of its own: its disks are copied and compared while it ' +
      'runs, then it goes over to the copies, and needs the appliance no more. Its recovery point and what it had written ' +
      'here are free then. Interrupted before it goes over, it runs from the appliance as before, and nothing is left ' +
      'at the target; a migration that stopped half-way is finished by the same command without --dir and --pool.',
    examples: [
      ['understudy migrate web-test --dir /var/lib/libvirt/images', 'new qcow2 files there'],
      ['understudy migrate web-test --pool default --format raw', 'new volumes of a storage pool'],
      ['understudy migrate web-test --dir /srv/vm --as web --autostart', 'in place of a lost original'],
    ],
    options: (command) =>
      command
        .option('--dir <dir>', 'put the disks into new files of this directory')
        .option('--pool <pool>', 'put the disks into new volumes of this storage pool')
        .addOption(new Option('--format <format>', 'format of the disks (default: qcow2)').choices(['qcow2', 'raw']))
        .option('--bandwidth <mib>', 'MiB per second that the copy may take', parseMib)
        .option('--as <name>', 'name of the machine from its next start on')
        .option('--autostart', 'start it with its host')
        .option('--no-verify', 'do not compare the copies before going over'),
    action: migrate,
  });
}

async function migrate(run: CommandRun, [name = '']: readonly string[], options: MigrateOptions): Promise<Outcome> {
  const { dir, pool, format, bandwidth, as, autostart, verify } = options;
  if (dir !== undefined && pool !== undefined) {
    throw new ApplianceError('BAD_ARGUMENT', 'a migration goes to exactly one of --dir DIR, --pool POOL');
  }
  const report = await run.callService(
    'migrate',
    defined({
      name,
      directory: dir === undefined ? undefined : run.path(dir),
      pool,
      format,
      bandwidth: bandwidth === undefined ? undefined : bandwidth * MIB,
      as,
      autostart,
      verify: verify ? undefined : false,
    }),
  );
  return { value: report, text: renderMigrate(report, run) };
}

function parseMib(text: string): number {
  const mib = Number(text);
  if (/^[1-9]\d*$/.test(text) && mib <= MOST_MIB) return mib;
  throw new InvalidArgumentError('It is a whole number of MiB per second.');
}

function renderMigrate(report: MigrateReport, run: CommandRun): string {
  const columns: Column<MigrateReport['disks'][number]>[] = [
    { title: 'DISK', cell: ({ disk }) => plain(disk) },
    { title: 'SIZE', align: 'right', cell: ({ sizeBytes }) => formatBytes(sizeBytes) },
    { title: 'FORMAT', cell: ({ format }) => format },
    { title: 'PATH', cell: ({ path }) => plain(path) },
  ];
  const name = run.paint(['bold', 'green'], plain(report.name));
  const busy = report.busyBytes === 0 ? '' : `, ${formatBytes(report.busyBytes)} were being written`;
  const compared =
    report.verifiedBytes === null ? '' : `Compared before it went over: ${formatBytes(report.verifiedBytes)}${busy}.\n`;
  const changes = report.changes.map((change) => `  - ${plain(change)}\n`).join('');
  const head = `${name} runs from its own storage, ${formatDuration(report.durationMs)} after the call.`;
  return `${head}\n\n${indented(renderTable(report.disks, columns, run.paint))}\n${compared}${changes}`;
}
