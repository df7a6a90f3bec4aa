// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { MachineDetails, MachineDisk, MachineSummary } from '../../api/operations.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { formatAge, formatBytes, formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, indented, renderFields, renderTable } from '../table.ts';

export function addMachine(program: Command, cli: CliRun): void {
  const machine = defineGroup(program, 'machine', 'the machines, and what of them can be protected');
  defineCommand(machine, cli, {
    usage: 'list',
    summary: 'list the machines of the hypervisor',
    description: 'Lists the machines of the hypervisor with their disks and how many recovery points exist.',
    examples: [
      ['understudy machine list', 'the default connection'],
      ['understudy machine list --connect qemu+ssh://root@host/system', 'another host'],
    ],
    connects: true,
    action: list,
  });
  defineCommand(machine, cli, {
    usage: 'show <name>',
    summary: 'show one machine and how each disk is protected',
    description:
      'Shows one machine (by name or UUID) with every disk: whether its changed blocks are tracked, whether it is ' +
      'scanned in full each time, or why it cannot be protected.',
    examples: [['understudy machine show web', 'disks of `web`, with reasons']],
    connects: true,
    action: show,
  });
}

async function list(run: CommandRun): Promise<Outcome> {
  const machines = await run.call('machineList', defined({ connect: run.connect }));
  if (machines.length === 0) return { value: machines, text: 'The hypervisor has no machines.\n' };
  const columns: Column<MachineSummary>[] = [
    { title: 'NAME', cell: (machine) => plain(machine.name) },
    { title: 'STATE', cell: (machine) => plain(machine.state) },
    { title: 'DISKS', cell: (machine) => machine.disks.map(briefDisk).join(', ') || '–' },
    { title: 'POINTS', align: 'right', cell: (machine) => String(machine.points) },
    { title: 'NEWEST POINT', cell: (machine) => (machine.newestPoint === null ? '–' : newest(machine, run)) },
  ];
  return { value: machines, text: renderTable(machines, columns, run.paint) };
}

async function show(run: CommandRun, [name = '']: readonly string[]): Promise<Outcome> {
  const machine = await run.call('machineShow', defined({ name, connect: run.connect }));
  return { value: machine, text: renderMachine(machine, run) };
}

function renderMachine(machine: MachineDetails, run: CommandRun): string {
  const { paint } = run;
  const facts = renderFields(
    [
      ['id', plain(machine.id)],
      ['state', plain(machine.state)],
      ['firmware', plain(machine.firmware)],
      [
        'guest agent',
        machine.hasAgent ? 'yes: file systems are frozen for a backup' : 'no: points are crash-consistent',
      ],
      ['points', machine.newestPoint === null ? 'none yet' : `${machine.points}, newest ${newest(machine, run)}`],
    ],
    paint,
  );
  const columns: Column<MachineDisk>[] = [
    { title: 'DISK', cell: (disk) => plain(disk.name) },
    { title: 'DEVICE', cell: (disk) => plain(disk.device) },
    { title: 'SIZE', align: 'right', cell: sizeOf },
    { title: 'FORMAT', cell: (disk) => plain(disk.format) },
    { title: 'PROTECTION', cell: (disk) => paint(disk.protection === 'none' ? 'yellow' : 'reset', protection(disk)) },
    { title: 'SOURCE', cell: (disk) => plain(disk.source) },
  ];
  const reasons = machine.disks.filter((disk) => disk.reason !== '');
  const sections = [
    `${paint('bold', plain(machine.name))}\n${facts}`,
    machine.disks.length === 0 ? 'It has no disks.\n' : indented(renderTable(machine.disks, columns, paint)),
    reasons.map((disk) => `  ${plain(disk.name)}: ${plain(disk.reason)}\n`).join(''),
    machine.notes.map((note) => `  - ${plain(note)}\n`).join(''),
  ];
  return sections.filter((section) => section !== '').join('\n');
}

function newest(machine: MachineSummary, run: CommandRun): string {
  const { newestPoint } = machine;
  if (newestPoint === null) return '–';
  const age = formatAge(newestPoint, run.io.clock.nowMs());
  return age === '' ? formatTime(newestPoint) : `${formatTime(newestPoint)} (${age})`;
}

function briefDisk(disk: MachineDisk): string {
  const size = disk.sizeBytes === null ? '' : ` ${formatBytes(disk.sizeBytes)}`;
  const remark = disk.protection === 'incremental' ? '' : ` (${protection(disk)})`;
  return `${plain(disk.name)}${size}${remark}`;
}

function sizeOf(disk: MachineDisk): string {
  return disk.sizeBytes === null ? '–' : formatBytes(disk.sizeBytes);
}

function protection(disk: MachineDisk): string {
  switch (disk.protection) {
    case 'incremental':
      return 'changed blocks';
    case 'full-scan':
      return 'full scan';
    case 'none':
      return 'not protected';
  }
}
