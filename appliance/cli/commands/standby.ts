// SPDX-License-Identifier: Apache-2.0
import { type Command, InvalidArgumentError } from 'commander';
import type { FailbackReport, FailoverReport, StandbySummary, StandbyTestReport } from '../../api/schemas/standbys.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { formatBytes, formatDuration, formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, renderTable } from '../table.ts';

interface CreateOptions {
  readonly on: string;
  readonly network?: readonly string[];
  readonly memory?: number;
  readonly as?: string;
}

interface FailoverOptions {
  readonly at?: string;
  readonly force?: boolean;
  readonly undo?: boolean;
}

const MOST_MIB: number = 2 ** 24;

export function addStandby(program: Command, cli: CliRun): void {
  const standby = defineGroup(program, 'standby', 'spares that take over from machines');
  defineCommand<CreateOptions>(standby, cli, {
    usage: 'create <name>',
    summary: 'define a spare of a machine on a second hypervisor',
    description:
      'Defines a spare of a machine, from its newest recovery point: a domain that is never started by itself. It ' +
      'follows the definition of the machine with each new point. `failover` starts it from the newest state.',
    examples: [
      ['understudy standby create web --on qemu:///system', 'a spare `web-standby`'],
      ['understudy standby create web --on qemu:///system --network lan=lan2', 'in another network'],
      ['understudy standby create web --on qemu:///system --memory 2048', 'with other memory, in MiB'],
    ],
    options: (command) =>
      command
        .requiredOption('--on <uri>', 'libvirt connection on which the spare is defined; of this host')
        .option('--network <old=new>', 'plug cards of network, bridge or device OLD into NEW; may be repeated', collect)
        .option('--memory <mib>', 'memory of the spare in MiB', parseMib)
        .option('--as <name>', 'name of the spare (default: NAME-standby)'),
    connects: true,
    action: create,
  });
  defineCommand(standby, cli, {
    usage: 'list',
    summary: 'list the spares, and where failovers stand',
    description: 'Lists the spares, and where failovers stand that are not over.',
    examples: [['understudy standby list', 'all of them']],
    action: list,
  });
  defineCommand<{ readonly expect?: string }>(standby, cli, {
    usage: 'test <name>',
    summary: 'boot the spare without its network, measure, and throw it away',
    description:
      'Boots the newest state as the spare would, without its network, waits until the guest shows that it is up (its ' +
      'agent answers, or it writes to its disks), says how long that took, and throws it away.',
    examples: [
      ['understudy standby test web', 'the recovery time, measured'],
      ['understudy standby test web --expect "^web login:"', 'the console must show that, too'],
    ],
    options: (command) => command.option('--expect <pattern>', 'regular expression that the serial console must show'),
    action: test,
  });
  defineCommand(standby, cli, {
    usage: 'remove <name>',
    summary: 'forget a spare and its domain',
    description: 'Undefines the domain of a spare, if it is ours, and forgets it. Nothing else is touched.',
    examples: [['understudy standby remove web', 'the spare of `web`']],
    action: async (run, [name = '']) => {
      const removed = await run.call('standbyRemove', { name });
      return { value: removed, text: `The spare ${plain(removed.name)} of ${plain(removed.machine)} is gone.\n` };
    },
  });
  addTakeover(program, cli);
}

function addTakeover(program: Command, cli: CliRun): void {
  defineCommand<FailoverOptions>(program, cli, {
    usage: 'failover <name>',
    summary: 'let the spare of a machine take over',
    description:
      'Switches the machine off, forbids its start with its host, takes a last recovery point of it, and starts its spare ' +
      'from there: nothing is lost. When the hypervisor of the machine cannot be reached, it may still run; then --force ' +
      'starts the spare from the newest state there is. A failover that was interrupted is gone on with by the same command.',
    examples: [
      ['understudy failover web', 'planned: nothing is lost'],
      ['understudy failover web --force', 'pull the plug, or go on although `web` cannot be reached'],
      ['understudy failover web --at "10 minutes ago"', 'an earlier state'],
      ['understudy failover web --undo', 'give up a failover that did not get to its end'],
    ],
    options: (command) =>
      command
        .option('--at <time>', 'the state of this time instead of the newest')
        .option('--force', 'pull the plug; go on although the machine cannot be reached')
        .option('--undo', 'go back to the machine, as long as the spare has not taken over'),
    action: failover,
  });
  defineCommand<{ readonly force?: boolean }>(program, cli, {
    usage: 'failback <name>',
    summary: 'return to a machine from its spare',
    description:
      'Copies what the spare has written to the disks of the machine while the spare runs, shuts the spare down, copies ' +
      'the rest, reads everything back, and starts the machine again. When it is not certain that its disks hold what the ' +
      'spare began with, they are compared as a whole, after a recovery point of them.',
    examples: [
      ['understudy failback web', 'return with what the spare wrote'],
      ['understudy failback web --force', 'pull the plug of a spare that does not shut down'],
    ],
    options: (command) => command.option('--force', 'pull the plug of what does not shut down'),
    action: failback,
  });
}

async function create(run: CommandRun, [name = '']: readonly string[], options: CreateOptions): Promise<Outcome> {
  const { on, memory, as } = options;
  const network = options.network?.join(',');
  const made = await run.call('standbyCreate', defined({ name, on, network, memory, as, connect: run.connect }));
  const changes = made.changes.map((change) => `  - ${plain(change)}\n`).join('');
  const text = `${plain(made.name)} is defined on ${plain(made.connect)}, from the point ${made.point ?? ''} of ${plain(made.machine)}.\n${changes}`;
  return { value: made, text };
}

async function list(run: CommandRun): Promise<Outcome> {
  const spares = await run.call('standbyList', {});
  if (spares.length === 0)
    return { value: spares, text: 'There is no spare. `understudy standby create NAME --on URI` makes one.\n' };
  return { value: spares, text: standbyTable(spares, run) };
}

function standbyTable(spares: readonly StandbySummary[], { paint }: Pick<CommandRun, 'paint'>): string {
  const columns: Column<StandbySummary>[] = [
    { title: 'MACHINE', cell: ({ machine }) => plain(machine) },
    { title: 'SPARE', cell: ({ name }) => plain(name) },
    { title: 'ON', cell: ({ connect }) => plain(connect) },
    { title: 'PHASE', cell: ({ phase }) => phase },
  ];
  const unfinished = spares.filter(({ phase }) => phase !== 'ready').map(({ standing }) => `${plain(standing)}\n`);
  return `${renderTable(spares, columns, paint)}${unfinished.join('')}`;
}

async function test(
  run: CommandRun,
  [name = '']: readonly string[],
  { expect }: { readonly expect?: string },
): Promise<Outcome> {
  const report = await run.callService('standbyTest', defined({ name, expect }));
  return { value: report, text: renderTest(report) };
}

function renderTest(report: StandbyTestReport): string {
  const { name, answeredMs, answeredBy, bootedMs, shownMs } = report;
  const shown = shownMs === null ? '' : ` The console showed what was expected after ${formatDuration(shownMs)}.`;
  return `${plain(name)}: the guest was up ${formatDuration(answeredMs)} after the call (${answerWords(answeredBy)}), running after ${formatDuration(bootedMs)}.${shown} It was thrown away.\n`;
}

async function failover(run: CommandRun, [name = '']: readonly string[], options: FailoverOptions): Promise<Outcome> {
  const { at, force, undo } = options;
  if (undo === true) {
    const undone = await run.callService('failoverUndo', { name });
    return { value: undone, text: `${plain(undone.machine)} is back. ${plain(undone.standing)}\n` };
  }
  const report = await run.callService('failover', defined({ name, at, force }));
  return { value: report, text: renderFailover(report) };
}

function renderFailover(report: FailoverReport): string {
  const { machine, name, planned, answeredBy, answeredMs } = report;
  const answer =
    answeredMs === null
      ? 'its guest has not shown yet that it is up'
      : `its guest was up after ${formatDuration(answeredMs)} (${answerWords(answeredBy ?? 'disk-writes')})`;
  const { moment, point } = report;
  const state =
    moment === null ? `the point ${point}` : `${formatTime(moment.time)} (seq:${moment.sequence} above ${point})`;
  const how = planned ? `${plain(machine)} is off` : `${plain(machine)} could not be reached`;
  return `${plain(name)} runs on ${plain(report.connect)}, ${formatDuration(report.bootedMs)} after the call; ${answer}.\n${how}; the spare began with ${state}.\n\`understudy failback ${plain(machine)}\` returns.\n`;
}

async function failback(
  run: CommandRun,
  [name = '']: readonly string[],
  { force }: { readonly force?: boolean },
): Promise<Outcome> {
  const report = await run.callService('failback', defined({ name, force }));
  return { value: report, text: renderFailback(report) };
}

function renderFailback(report: FailbackReport): string {
  const why = report.method === 'changes' ? '' : `Everything was compared: ${plain(report.reason)}.\n`;
  return (
    `${plain(report.machine)} runs again, with everything that ${plain(report.name)} wrote. Neither ran for ${formatDuration(report.downMs)}.\n` +
    `Copied ${formatBytes(report.copiedBytes)} in ${report.rounds} rounds for ${formatBytes(report.changedBytes)} of changes; read back and compared ${formatBytes(report.verifiedBytes)}.\n${why}` +
    `Before that it was as in the recovery point ${report.pointBefore}.\n`
  );
}

function answerWords(kind: 'agent' | 'disk-writes'): string {
  return kind === 'agent' ? 'its agent answered' : 'it wrote to its disks';
}

function collect(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

function parseMib(text: string): number {
  const mib = Number(text);
  if (/^[1-9]\d*$/.test(text) && mib <= MOST_MIB) return mib;
  throw new InvalidArgumentError('It is a whole number of MiB.');
}
