// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { MachineDetails, MachineDisk, MachineSummary } from '../../api/operations.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { formatAge, formatBytes, formatLocalTime, formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, indented, renderFields, renderTable } from '../table.ts';
import { addWide, type WideOption } from '../wide-option.ts';

/** Of a policy's name, where there is little room. */
const MAX_POLICY_NAME = 11;

/** Kinds of drives whose medium comes and goes. */
const REMOVABLE: ReadonlySet<string> = new Set(['cdrom', 'floppy']);

export function addMachine(program: Command, cli: CliRun): void {
  const machine = defineGroup(program, 'machine', 'the machines, and what of them can be protected');
  defineCommand<WideOption>(machine, cli, {
    usage: 'list',
    summary: 'list the machines of the hypervisor',
    description: 'Lists the machines of the hypervisor with who protects them and how many recovery points exist.',
    examples: [
      ['understudy machine list', 'the default connection'],
      ['understudy machine list --connect qemu+ssh://root@host/system', 'another host'],
      ['understudy machine list --wide', 'with every disk, and why a policy has a machine'],
    ],
    options: addWide,
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

async function list(run: CommandRun, _args: readonly string[], { wide }: WideOption): Promise<Outcome> {
  const machines = await run.call('machineList', defined({ connect: run.connect }));
  if (machines.length === 0) return { value: machines, text: 'The hypervisor has no machines.\n' };
  const disks: readonly Column<MachineSummary>[] =
    wide === true
      ? [{ title: 'DISKS', cell: (machine) => machine.disks.map(briefDisk).join(', ') || '–' }]
      : [{ title: 'PROTECTION', cell: briefProtection }];
  const columns: Column<MachineSummary>[] = [
    { title: 'NAME', cell: (machine) => plain(machine.name) },
    { title: 'STATE', cell: (machine) => plain(machine.state) },
    ...disks,
    { title: 'POLICY', cell: (machine) => policyText(machine, run, wide) },
    { title: 'POINTS', align: 'right', cell: (machine) => String(machine.points) },
    { title: 'NEWEST', cell: (machine) => (wide === true ? newest(machine, run) : newestAge(machine, run)) },
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
      ['policy', policyText(machine, run, true)],
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

function brief(name: string): string {
  return name.length <= MAX_POLICY_NAME ? name : `${name.slice(0, MAX_POLICY_NAME - 1)}…`;
}

/** Who protects it: what nobody protects, or what is overdue, stands out. */
function policyText(machine: MachineSummary, run: CommandRun, isWide?: boolean): string {
  const { policy, policyReason, isOverdue } = machine;
  const why = isWide === true ? ` (${plain(policyReason)})` : '';
  if (policy === null) return `${run.paint('yellow', 'unprotected')}${why}`;
  const name = isWide === true ? plain(policy) : brief(plain(policy));
  return `${isOverdue ? run.paint('red', `${name}, overdue`) : name}${why}`;
}

function newestAge({ newestPoint }: MachineSummary, run: CommandRun): string {
  if (newestPoint === null) return '–';
  return formatAge(newestPoint, run.io.clock.nowMs()) || formatLocalTime(newestPoint);
}

/** Without drives that nobody expects in a backup. */
function fixedDisks({ disks }: MachineSummary): readonly MachineDisk[] {
  return disks.filter((disk) => !(disk.protection === 'none' && REMOVABLE.has(disk.device)));
}

/** One word when all disks are alike, otherwise the disks that are worse off. */
function briefProtection(machine: MachineSummary): string {
  const disks = fixedDisks(machine);
  const kinds = new Set(disks.map(protection));
  if (kinds.size <= 1) return [...kinds][0] ?? '–';
  const worse = Map.groupBy(
    disks.filter((disk) => disk.protection !== 'incremental'),
    protection,
  );
  return [...worse].map(([kind, some]) => `${kind}: ${some.map((disk) => plain(disk.name)).join(', ')}`).join('; ');
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
