// SPDX-License-Identifier: Apache-2.0
import { type Command, Option } from 'commander';
import type { BackupDiskReport, BackupReport } from '../../api/operations.ts';
import { parseBytes } from '../../core/amounts.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { formatBytes, formatDuration, formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, indented, renderTable } from '../table.ts';

interface BackupOptions {
  readonly name?: string;
  readonly fullScan?: boolean;
  readonly quiesce?: 'try' | 'always' | 'never';
  readonly bandwidth?: string;
}

const RATES = { least: 65_536, most: 2 ** 40, what: 'bandwidth', hint: 'Bytes per second, at least 64KiB: 50MiB.' };
const NBD_SCHEME = /^nbds?(\+[a-z]+)?:\/\//i;

export function isNbdUri(text: string): boolean {
  return NBD_SCHEME.test(text);
}

export function addBackup(program: Command, cli: CliRun): void {
  defineCommand<BackupOptions>(program, cli, {
    usage: 'backup <target>',
    summary: 'take a recovery point of a machine or an NBD export',
    description:
      'Takes a recovery point of a machine (by name or UUID): all of its disks at one moment, while it runs. After the ' +
      'first time only changed blocks are read. Where the tracking of changes cannot be trusted, everything is read ' +
      'and compared, and the recovery point says why.\n\nAn NBD URI protects any export: a physical machine, or a disk ' +
      'of another hypervisor.',
    examples: [
      ['understudy backup web', 'all disks of the machine `web`'],
      ['understudy backup web --full-scan', 'read everything, whatever the tracking says'],
      ['understudy backup nbd://host/disk --name mail', 'an NBD export, kept as the machine `mail`'],
      ["understudy backup 'nbd+unix:///?socket=/run/d.sock' --name d", 'the same through a unix socket'],
    ],
    options: (command) =>
      command
        .option('--name <name>', 'name under which an NBD export is kept (default: export name or host)')
        .option('--full-scan', 'read all disks in full and store what differs')
        .addOption(
          new Option('--quiesce <rule>', 'freeze the guest: if possible (default), or else fail, or never').choices([
            'try',
            'always',
            'never',
          ]),
        )
        .option('--bandwidth <rate>', 'bytes per second that may be read: 50MiB'),
    connects: true,
    action: backup,
  });
}

async function backup(run: CommandRun, [given = '']: readonly string[], options: BackupOptions): Promise<Outcome> {
  const target = isNbdUri(given) ? run.nbdUri(given) : given;
  const { quiesce } = options;
  const bandwidth = options.bandwidth === undefined ? undefined : parseBytes(options.bandwidth, RATES);
  const report = await run.call(
    'backup',
    defined({ target, name: options.name, fullScan: options.fullScan, quiesce, bandwidth, connect: run.connect }),
  );
  return { value: report, text: renderBackup(report, run) };
}

function renderBackup(report: BackupReport, run: CommandRun): string {
  const { paint } = run;
  const isMixed = report.disks.some((disk) => disk.kind !== report.kind);
  const columns: Column<BackupDiskReport>[] = [
    { title: 'DISK', cell: (disk) => plain(disk.name) },
    { title: 'SIZE', align: 'right', cell: (disk) => formatBytes(disk.sizeBytes) },
    { title: 'CHANGED', align: 'right', cell: (disk) => formatBytes(disk.changedBytes) },
    { title: 'READ', align: 'right', cell: (disk) => formatBytes(disk.readBytes) },
    { title: 'NEW', align: 'right', cell: (disk) => formatBytes(disk.newChunkBytes) },
    { title: 'STORED', align: 'right', cell: (disk) => formatBytes(disk.storedBytes) },
    ...(isMixed ? [{ title: 'KIND', cell: (disk: BackupDiskReport) => disk.kind }] : []),
  ];
  const head = `${paint(['bold', 'green'], report.point)}  ${plain(report.machine)}, ${formatTime(report.createdAt)}, ${report.consistency}`;
  const stored = report.disks.reduce((sum, disk) => sum + disk.storedBytes, 0);
  const kind = report.reason === '' ? report.kind : `${report.kind}: ${plain(report.reason)}`;
  const skipped = report.skipped.map(
    (disk) => `${paint('yellow', 'not in this point:')} ${plain(disk.name)}, ${plain(disk.reason)}\n`,
  );
  return `${head}\n  ${kind}\n\n${indented(renderTable(report.disks, columns, paint))}\n${skipped.join('')}Took ${formatDuration(report.durationMs)}; the repository grew by ${formatBytes(stored)}.\n`;
}
