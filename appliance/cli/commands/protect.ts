// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { ProtectionReport, ResyncReport } from '../../api/operations.ts';
import { ApplianceError } from '../../core/errors.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { formatBytes, formatDuration, formatLocalTime, formatRate, formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import type { Paint } from '../style.ts';
import { type Column, renderFields, renderTable } from '../table.ts';
import { addWide, type WideOption } from '../wide-option.ts';

interface ProtectOptions {
  readonly continuous?: boolean;
  readonly interval?: string;
  readonly durability?: string;
  readonly window?: string;
  readonly windowSize?: string;
}

interface ProtectionOptions extends WideOption {
  readonly pause?: string;
  readonly resume?: string;
  readonly for?: string;
}

export function addProtect(program: Command, cli: CliRun): void {
  defineCommand<ProtectOptions>(program, cli, {
    usage: 'protect <name>',
    summary: 'keep every write of a running machine, or a state each few seconds',
    description:
      'Protects a machine continuously. With --continuous, QEMU mirrors every write of the guest into the journal before ' +
      'the guest sees it complete, and any moment can be recovered. With --interval, what changed is read so often. ' +
      'Protection outlives restarts of guest, hypervisor and appliance, until `understudy unprotect`; while the ' +
      'appliance is away the machine runs on, and the gap is shown.\n\nThe work is done by `understudy serve`, which is ' +
      'started in the background when it does not run.',
    examples: [
      ['understudy protect web --continuous', 'every write'],
      ['understudy protect web --continuous --durability write', 'each on stable storage before the guest goes on'],
      ['understudy protect web --interval 10s', 'a state each ten seconds'],
      ['understudy protect web --continuous --window 7d --window-size 50GiB', 'moments of a week, if they fit'],
    ],
    options: (command) =>
      command
        .option('--continuous', 'keep every write')
        .option('--interval <time>', 'a state each so often instead: 5s, 1m; at least 1s')
        .option('--durability <when>', '`write`: flush before each write is acknowledged; `group`: within a second')
        .option('--window <time>', 'how long any moment can be recovered: 6h, 24h (default), 7d')
        .option('--window-size <size>', 'let the oldest moments go earlier when the journal gets larger: 50GiB'),
    connects: true,
    action: protect,
  });
  defineCommand(program, cli, {
    usage: 'unprotect <name>',
    summary: 'end the continuous protection of a machine',
    description:
      'Ends the continuous protection of a machine, which goes on without noticing. Its last state becomes a recovery ' +
      'point; the moments of its journal stay readable for a day.',
    examples: [['understudy unprotect web', 'the machine `web`']],
    action: unprotect,
  });
  defineCommand<ProtectionOptions>(program, cli, {
    usage: 'protection',
    summary: 'show the machines under continuous protection',
    description:
      'Shows each machine under continuous protection: its state, how much would be lost now, how fast its journal ' +
      'grows, from when on moments can be recovered, and the gaps. --pause lets go of a machine, so that another tool ' +
      'can snapshot, back up or migrate it; --resume takes it up again.',
    examples: [
      ['understudy protection', 'all of them'],
      ['understudy protection --wide', 'with reasons and gaps'],
      ['understudy protection --pause web --for 30m', 'let another tool have the machine `web` for half an hour'],
    ],
    options: (command) =>
      addWide(command)
        .option('--pause <name>', 'let go of a machine')
        .option('--for <time>', 'with --pause: take it up again after so long: 30m, 2h')
        .option('--resume <name>', 'take it up again'),
    action: protection,
  });
}

async function protect(run: CommandRun, [target = '']: readonly string[], options: ProtectOptions): Promise<Outcome> {
  const { interval, window, windowSize } = options;
  if ((options.continuous === true) === (interval !== undefined)) {
    throw new ApplianceError('BAD_ARGUMENT', 'give either --continuous or --interval');
  }
  const durability = parseDurability(options.durability);
  const report = await run.callService(
    'protect',
    defined({ target, interval, durability, window, windowSize, connect: run.connect }),
  );
  const what = report.intervalMs === null ? 'Every write' : `A state each ${formatDuration(report.intervalMs)}`;
  const when =
    report.state === 'protected' ? 'is kept from now on' : 'will be kept as soon as its state is `protected`';
  const text =
    `${what} of ${run.paint('bold', plain(report.machine))} ${when}.\n` +
    `State: ${report.state} (${plain(report.reason)}); \`understudy protection\` follows it.\n`;
  return { value: report, text };
}

function parseDurability(text: string | undefined): 'group' | 'write' | undefined {
  if (text === undefined || text === 'group' || text === 'write') return text;
  throw new ApplianceError('BAD_ARGUMENT', '--durability is `group` or `write`');
}

async function unprotect(run: CommandRun, [name = '']: readonly string[]): Promise<Outcome> {
  await listProtection(run);
  const report = await run.call('unprotect', { name });
  return { value: report, text: `${plain(report.outcome)}\n` };
}

async function protection(
  run: CommandRun,
  _args: readonly string[],
  { wide, pause, resume, for: length }: ProtectionOptions,
): Promise<Outcome> {
  if (length !== undefined && pause === undefined) throw new ApplianceError('BAD_ARGUMENT', '--for goes with --pause');
  if (pause !== undefined || resume !== undefined) {
    const name = pause ?? resume ?? '';
    const report =
      pause === undefined
        ? await run.callService('protectionResume', { name })
        : await run.callService('protectionPause', defined({ name, for: length }));
    return { value: report, text: `${stateLine(report)}\n` };
  }
  const machines = await listProtection(run);
  if (machines.length === 0) {
    const text = 'No machine is under continuous protection. `understudy protect NAME --continuous` begins it.\n';
    return { value: machines, text };
  }
  const table = protectionTable(machines, run.paint);
  const details =
    wide === true
      ? machines.map((machine) => `\n${detailsOf(machine, run.paint)}`).join('')
      : machines.map((machine) => troublesOf(machine, run.paint)).join('');
  return { value: machines, text: table + details };
}

function stateLine({ machine, state, reason }: ProtectionReport): string {
  return `${plain(machine)} is ${state}: ${plain(reason)}`;
}

/** Why a machine is not protected, and what else is wrong with it: nobody may have to ask for that. */
export function troublesOf(report: ProtectionReport, paint: Paint): string {
  const lines = report.problems.map((problem) => `${plain(report.machine)}: ${plain(problem)}`);
  if (report.state !== 'protected') lines.unshift(stateLine(report));
  return lines.map((line) => `${paint('yellow', line)}\n`).join('');
}

/** The machines as text. */
export function protectionTable(machines: readonly ProtectionReport[], paint: Paint): string {
  const columns: Column<ProtectionReport>[] = [
    { title: 'MACHINE', cell: ({ machine }) => plain(machine) },
    { title: 'STATE', cell: ({ state }) => paint(state === 'protected' ? 'green' : 'yellow', state) },
    { title: 'MODE', cell: (one) => modeOf(one) },
    { title: 'RPO NOW', align: 'right', cell: ({ rpoMs }) => (rpoMs === null ? '-' : formatDuration(rpoMs)) },
    { title: 'RATE', align: 'right', cell: ({ bytesPerSecond }) => formatRate(bytesPerSecond) },
    { title: 'JOURNAL', align: 'right', cell: ({ journalBytes }) => formatBytes(journalBytes) },
    { title: 'FROM', cell: ({ window }) => (window === null ? '-' : formatLocalTime(window.from)) },
    { title: 'GAPS', align: 'right', cell: ({ gaps }) => String(gaps.length) },
  ];
  return renderTable(machines, columns, paint);
}

function modeOf({ mode, intervalMs }: ProtectionReport): string {
  if (mode === 'stage') return 'on stage';
  if (mode === 'writes') return 'writes';
  return intervalMs === null ? 'intervals' : `each ${formatDuration(intervalMs)}`;
}

function detailsOf(report: ProtectionReport, paint: Paint): string {
  const { gaps, window, lastFold, problems, resync } = report;
  const shown = gaps.slice(-5).map(({ from, to, reason }): readonly [string, string] => {
    const until = to === null ? 'now' : formatTime(to);
    return ['gap', `${formatTime(from)} to ${until}: ${plain(reason)}`];
  });
  const fields: (readonly [string, string])[] = [
    ['state', `${report.state}: ${plain(report.reason)}`],
    ['connection', plain(report.connect)],
    ['durability', report.durability],
    ['window', windowText(report)],
    ['moments', window === null ? 'none yet' : `${formatTime(window.from)} to ${formatTime(window.to)}`],
    ['last fold', lastFold === null ? 'none yet' : formatTime(lastFold)],
    ...problems.map((problem) => ['problem', plain(problem)] as const),
    ...(resync === null ? [] : [['taken up', resyncText(resync)] as const]),
    ['gaps', gaps.length === 0 ? 'none' : String(gaps.length)],
    ...shown,
  ];
  return `${paint('bold', plain(report.machine))}\n${renderFields(fields, paint)}`;
}

function windowText({ windowMs, windowBytes }: ProtectionReport): string {
  return `${formatDuration(windowMs)}${windowBytes === null ? '' : `, at most ${formatBytes(windowBytes)}`}`;
}

function resyncText({ kind, at, reason, changedBytes, comparedBytes, differingBytes }: ResyncReport): string {
  const caughtUp = kind === 'bitmap' ? `${formatBytes(changedBytes)} read from the dirty bitmap` : 'no dirty bitmap';
  const why = reason === null ? '' : ` (${plain(reason)})`;
  const compared =
    comparedBytes === null || differingBytes === null
      ? 'the disks are being copied whole'
      : `${formatBytes(comparedBytes)} copied and compared, ${formatBytes(differingBytes)} differed`;
  return `${formatTime(at)}: ${caughtUp}${why}; ${compared}`;
}

/** Protected machines need the service: when there is one and no service, the service is started. */
async function listProtection(run: CommandRun): Promise<readonly ProtectionReport[]> {
  const machines = await run.call('protection', {});
  return machines.length === 0 ? machines : run.callService('protection', {});
}
