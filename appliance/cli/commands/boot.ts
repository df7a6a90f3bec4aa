// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { BootedMachine, BootReport, StopReport } from '../../api/operations.ts';
import type { RewindReport } from '../../api/schemas/booted.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { formatBytes, formatDuration, formatLocalTime, formatTime, plain, shortIds } from '../format.ts';
import { POINT_ARGUMENT } from '../point-argument.ts';
import type { CliRun } from '../run-cli.ts';
import { formatMoment, stateText } from '../state-text.ts';
import type { Paint } from '../style.ts';
import { type Column, renderFields, renderTable } from '../table.ts';
import { addWide, type WideOption } from '../wide-option.ts';

interface BootOptions {
  readonly as?: string;
  readonly keepNetwork?: boolean;
  readonly keepIdentity?: boolean;
}

export function addBoot(program: Command, cli: CliRun): void {
  defineCommand<BootOptions>(program, cli, {
    usage: 'boot <point>',
    summary: 'start a machine from a recovery point, at once',
    description:
      `Starts a machine whose disks are the recovery point. Nothing is copied; what the machine writes goes into a log of ` +
      `its own, and the point stays as it is. It gets a new name, UUID and MAC addresses, and its network is unplugged, ` +
      `so that it does not disturb the original. ${POINT_ARGUMENT}\n\nThe disks are served by \`understudy serve\`, ` +
      `which is started in the background when it does not run.`,
    examples: [
      ['understudy boot web@latest', 'the newest state of `web`, beside it'],
      ['understudy boot web@-1 --as web-test', 'the state before that, under a name of your choice'],
      ['understudy boot 3f2a --keep-network --keep-identity', 'in place of a lost original'],
    ],
    options: (command) =>
      command
        .option('--as <name>', 'name of the new machine')
        .option('--keep-network', 'leave its network links plugged in')
        .option('--keep-identity', 'keep UUID and MAC addresses; the original must be gone'),
    connects: true,
    action: boot,
  });
  defineCommand<WideOption>(program, cli, {
    usage: 'booted',
    summary: 'list the machines that run from recovery points',
    description: 'Lists the machines that were started with `boot`, and how much they have written since.',
    examples: [
      ['understudy booted', 'all of them'],
      ['understudy booted --wide', 'with their hypervisors'],
    ],
    options: addWide,
    action: booted,
  });
  defineCommand(program, cli, {
    usage: 'rewind <moment>',
    summary: 'give a machine that runs from the appliance back a state that it had',
    description:
      'Switches a booted machine off as if its plug was pulled, gives its disks the state that it had at a moment, and ' +
      'starts it again. The moment is named like any other, NAME@TIME, with the name of the booted machine; `understudy ' +
      'timeline NAME` shows what there is. Nothing that it wrote since is lost: the last moment before gets a bookmark, and ' +
      'rewinding to that undoes it.',
    examples: [
      ['understudy rewind web-test@"5 minutes ago"', 'what it was five minutes ago'],
      ['understudy rewind web-test@bookmark:"before the upgrade"', 'what it was then'],
    ],
    action: rewind,
  });
  defineCommand<{ readonly discard?: boolean }>(program, cli, {
    usage: 'stop <name>',
    summary: 'stop a machine that runs from a recovery point',
    description:
      'Stops a machine that was started with `boot`. What it has written is kept, and the same machine can be started ' +
      'again; with --discard it is given up, together with the definition of the machine.',
    examples: [
      ['understudy stop web-test', 'stop it, keep what it wrote'],
      ['understudy stop web-test --discard', 'stop it and remove all of it'],
    ],
    options: (command) => command.option('--discard', 'give up what the machine has written, and its definition'),
    action: stop,
  });
}

async function boot(run: CommandRun, [point = '']: readonly string[], options: BootOptions): Promise<Outcome> {
  const { as, keepNetwork, keepIdentity } = options;
  const params = defined({ point, as, keepNetwork, keepIdentity, connect: run.connect });
  const report = await run.callService('boot', params);
  return { value: report, text: renderBoot(report, run) };
}

async function booted(run: CommandRun, _args: readonly string[], { wide }: WideOption): Promise<Outcome> {
  const machines = await listBooted(run);
  if (machines.length === 0) {
    return { value: machines, text: 'No machine runs from a recovery point. `understudy boot POINT` starts one.\n' };
  }
  return { value: machines, text: bootedTable(machines, { wide, paint: run.paint }) };
}

/** The machines that run, as text; without `wide` in 80 columns unless names are long. */
export function bootedTable(
  machines: readonly BootedMachine[],
  { wide, paint }: { readonly wide: boolean | undefined; readonly paint: Paint },
): string {
  const shortId = shortIds(machines.map((machine) => machine.point));
  const columns: Column<BootedMachine>[] = [
    { title: 'NAME', cell: (machine) => plain(machine.name) },
    { title: 'STATE', cell: (machine) => plain(machine.state) },
    {
      title: 'POINT',
      cell: ({ point, moment }) =>
        `${wide === true ? point : shortId(point)}${moment === null ? '' : `+seq:${moment.sequence}`}`,
    },
    {
      title: 'STARTED',
      cell: ({ startedAt }) => (wide === true ? formatTime(startedAt) : formatLocalTime(startedAt)),
    },
    { title: 'WRITTEN', align: 'right', cell: (machine) => formatBytes(machine.writtenBytes) },
    ...(wide === true ? [{ title: 'CONNECTION', cell: (machine: BootedMachine) => plain(machine.connect) }] : []),
  ];
  const problems = machines.flatMap(({ name, problem }) =>
    problem === null ? [] : [`${paint('yellow', plain(name))}: ${plain(problem)}\n`],
  );
  return renderTable(machines, columns, paint) + (problems.length === 0 ? '' : `\n${problems.join('')}`);
}

async function rewind(run: CommandRun, [point = '']: readonly string[]): Promise<Outcome> {
  const report = await run.callService('rewind', { point });
  return { value: report, text: renderRewind(report, run) };
}

async function stop(
  run: CommandRun,
  [name = '']: readonly string[],
  { discard }: { readonly discard?: boolean },
): Promise<Outcome> {
  await listBooted(run);
  const report = await run.call('stop', defined({ name, discard }));
  return { value: report, text: renderStop(report) };
}

/** Booted machines need the service for their disks: when there is one and no service, the service is started. */
async function listBooted(run: CommandRun): Promise<readonly BootedMachine[]> {
  const machines = await run.call('booted', {});
  if (machines.length === 0) return machines;
  return run.callService('booted', {});
}

function renderBoot(report: BootReport, run: CommandRun): string {
  const { paint } = run;
  const name = plain(report.name);
  const facts = renderFields(
    [
      [report.moment === null ? 'point' : 'moment', stateText(report)],
      ['machine id', report.machineId],
      ['connection', plain(report.connect)],
      ...report.exports.map(({ disk, uri }) => [plain(disk), plain(uri)] as const),
    ],
    paint,
  );
  const changes = report.changes.map((change) => `  - ${plain(change)}\n`);
  const changed = changes.length === 0 ? '' : `\nChanged to start it here:\n${changes.join('')}`;
  return `${paint(['bold', 'green'], name)} runs, ${formatDuration(report.durationMs)} after the call.\n${facts}${changed}\n\`understudy stop ${name}\` stops it; add --discard to remove all of it.\n`;
}

/** What a rewind did, and how it is undone. */
export function renderRewind(report: RewindReport, { paint }: Pick<CommandRun, 'paint'>): string {
  const name = plain(report.name);
  const what = report.moment === null ? `the recovery point ${report.target}` : formatMoment(report.moment.time);
  return (
    `${paint(['bold', 'green'], name)} is what it was at ${what}, and runs; it was off for ${formatDuration(report.downMs)}.\n` +
    `What it was before is the recovery point ${report.pointBefore}.\n` +
    `\`understudy rewind '${name}@bookmark:"${plain(report.bookmark)}"'\` undoes this.\n`
  );
}

function renderStop(report: StopReport): string {
  return `${plain(report.outcome)}\nIt had written ${formatBytes(report.writtenBytes)}.\n`;
}
