// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { GuardReport, PointGuardsReport } from '../../api/schemas/retention.ts';
import { ApplianceError } from '../../core/errors.ts';
import { confirmByName } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { formatTime, plain } from '../format.ts';
import { POINT_ARGUMENT } from '../point-argument.ts';
import type { CliRun } from '../run-cli.ts';

interface HoldOptions {
  readonly reason?: string;
  readonly until?: string;
}

interface LockOptions {
  readonly until?: string;
  readonly yes?: boolean;
}

const POINTS_ONLY = 'A moment of a journal cannot be held or locked.';
const DATE = 'TIME is a day, which means its beginning (2026-12-24), or a time (2026-12-24T18:00; add Z for UTC).';

export function addGuards(program: Command, cli: CliRun): void {
  defineCommand<HoldOptions>(program, cli, {
    usage: 'hold <point>',
    summary: 'forbid that a recovery point is deleted, until `release`',
    description:
      'Holds a recovery point: neither `delete` nor `retention` removes it until `release`, or until the date of --until. ' +
      `To hold it again changes reason and date. ${DATE} ${POINTS_ONLY} ${POINT_ARGUMENT}`,
    examples: [
      ['understudy hold 3f2a --reason "audit 2026"', 'until `release`'],
      ['understudy hold web@latest --reason "before the upgrade" --until 2026-12-24', 'until that day'],
    ],
    options: (command) =>
      command
        .option('--reason <text>', 'why; shown where the point is (required)')
        .option('--until <time>', 'end it by itself'),
    action: hold,
  });
  defineCommand(program, cli, {
    usage: 'release <point>',
    summary: 'end the hold of a recovery point',
    description: `Ends the hold of a recovery point. A lock cannot be released. ${POINT_ARGUMENT}`,
    examples: [['understudy release 3f2a', 'it can be deleted again']],
    action: release,
  });
  defineCommand<LockOptions>(program, cli, {
    usage: 'lock <point>',
    summary: 'forbid for good that a recovery point is deleted before a date',
    description:
      'Locks a recovery point: until the date nobody deletes it, by no command, and nothing shortens the lock; a later date ' +
      "extends it. The date must come by the clock, and the appliance must have lived through the time before it: to set the clock does not help. Asks for the machine's name unless --yes " +
      `is given. ${DATE} ${POINTS_ONLY} ${POINT_ARGUMENT}`,
    examples: [
      ['understudy lock 3f2a --until 2027-01-01', 'asks first: it cannot be undone'],
      ['understudy lock web@latest --until 2027-01-01 --yes', 'does not ask'],
    ],
    options: (command) => command.option('--until <time>', 'the date (required)').option('--yes', 'do not ask'),
    action: lock,
  });
}

async function hold(
  run: CommandRun,
  [point = '']: readonly string[],
  { reason, until }: HoldOptions,
): Promise<Outcome> {
  if (reason === undefined) throw new ApplianceError('BAD_ARGUMENT', 'hold needs --reason TEXT');
  return outcomeOf(await run.call('hold', defined({ point, reason, until })));
}

async function release(run: CommandRun, [point = '']: readonly string[]): Promise<Outcome> {
  return outcomeOf(await run.call('release', { point }));
}

async function lock(run: CommandRun, [given = '']: readonly string[], { until, yes }: LockOptions): Promise<Outcome> {
  if (until === undefined) throw new ApplianceError('BAD_ARGUMENT', 'lock needs --until TIME');
  const point = yes === true ? given : await confirmLock(run, given, until);
  return outcomeOf(await run.call('lock', { point, until }));
}

/** The id of the point that was confirmed: an expression like `web@latest` may mean another one a moment later. */
async function confirmLock(run: CommandRun, given: string, until: string): Promise<string> {
  const { point, moment } = await run.call('pointShow', { point: given });
  if (moment !== null) {
    throw new ApplianceError('BAD_ARGUMENT', `${given} is a moment of a journal, not a recovery point`, {
      hint: `Name the recovery point by its id; \`understudy points ${point.machine.name}\` lists them.`,
    });
  }
  const which = `${point.id} of ${point.machine.name}, taken ${formatTime(point.createdAt)}`;
  const consequence = `This locks the recovery point ${which}, until ${until}. Nobody can delete it or shorten the lock before that.`;
  await confirmByName(run, { name: point.machine.name, consequence });
  return point.id;
}

function outcomeOf(report: PointGuardsReport): Outcome {
  const { point, machine, hold: held, lock: locked } = report;
  const standing = [describeLock(locked), describeHold(held)].filter((text) => text !== undefined);
  const what = standing.length === 0 ? 'is neither held nor locked' : `is ${standing.join(', and ')}`;
  return { value: report, text: `${point} of ${plain(machine)} ${what}.\n` };
}

/** `held until …: audit`; undefined for no hold. */
export function describeHold(held: GuardReport | null): string | undefined {
  if (held === null) return undefined;
  const until = held.until === null ? '' : ` until ${formatTime(held.until)}`;
  return `held${until}${held.reason === '' ? '' : `: ${plain(held.reason)}`}`;
}

/** `locked until …`; undefined for no lock. */
export function describeLock(locked: GuardReport | null): string | undefined {
  if (locked === null) return undefined;
  const until = locked.until === null ? '' : ` until ${formatTime(locked.until)}`;
  return `locked${until}${locked.reason === '' ? '' : `: ${plain(locked.reason)}`}`;
}
