// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { GcReport } from '../../api/schemas/repository.ts';
import { EXIT_CODES } from '../../core/error-codes.ts';
import { ApplianceError } from '../../core/errors.ts';
import { confirmByName } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { count, formatBytes, formatDuration, formatTime, plain } from '../format.ts';
import { POINT_ARGUMENT } from '../point-argument.ts';
import type { CliRun } from '../run-cli.ts';
import { LOST_MEANING } from './points.ts';

interface DeleteOptions {
  readonly yes?: boolean;
  readonly now?: boolean;
}

export function addDelete(program: Command, cli: CliRun): void {
  defineCommand<DeleteOptions>(program, cli, {
    usage: 'delete <point>',
    summary: 'delete a recovery point; it can be brought back for a while',
    description:
      `Deletes one recovery point; no other point depends on it. Asks for the machine's name unless --yes is given. ` +
      'Within the grace period `undelete` brings it back; its space is freed by `gc` after that. A point that `points` ' +
      'calls lost (its manifest disappeared from the repository) is given up: `check` does not miss it any more, `gc` frees ' +
      `what it held, and nothing brings it back. It is named by its id. ${POINT_ARGUMENT}`,
    examples: [
      ['understudy delete 3f2a', 'asks first'],
      ['understudy delete web@2026-01-01 --yes', 'does not ask'],
      ['understudy delete 3f2a --yes --now', 'for good, without a grace period'],
    ],
    options: (command) => command.option('--yes', 'do not ask').option('--now', 'for good: without a grace period'),
    action: deletePoint,
  });
  defineCommand(program, cli, {
    usage: 'undelete <point>',
    summary: 'bring a deleted recovery point back',
    description: 'Brings a recovery point back that was deleted within the grace period, by its id.',
    examples: [['understudy undelete 3f2a91c04b7d8e11', 'by its id, or the beginning of it']],
    action: undelete,
  });
  defineCommand<{ readonly now?: boolean }>(program, cli, {
    usage: 'gc',
    summary: 'free the space of what was deleted',
    description:
      'Frees the space of deleted recovery points whose grace period is over, and of interrupted backups. With --now ' +
      'also that of points within the grace period, which `undelete` cannot bring back then. Packs that are mostly ' +
      'garbage are rewritten, which needs room: on a full disk those that do not fit stay, and are counted. The exit code is ' +
      '8 when nothing could be freed for that reason.',
    examples: [
      ['understudy gc', 'what is due'],
      ['understudy gc --now', 'everything that was deleted'],
    ],
    options: (command) => command.option('--now', 'do not wait for the end of the grace period'),
    action: gc,
  });
}

async function deletePoint(run: CommandRun, [given = '']: readonly string[], options: DeleteOptions): Promise<Outcome> {
  const point = options.yes === true ? given : await confirmDelete(run, given, options);
  const report = await run.call('delete', defined({ point, now: options.now }));
  if (report.lost) {
    const text = `Gave up ${report.point} of ${plain(report.machine)}, which was lost. \`understudy gc\` frees what no other point holds.\n`;
    return { value: report, text };
  }
  const until = report.recoverableUntil;
  const next =
    until === null
      ? 'It is gone for good; `understudy gc` frees its space.'
      : `\`understudy undelete ${report.point}\` brings it back until ${formatTime(until)}.`;
  return { value: report, text: `Deleted ${report.point} of ${plain(report.machine)}. ${next}\n` };
}

/** The id of the point that was confirmed: an expression like `web@latest` may mean another one a moment later. */
async function confirmDelete(run: CommandRun, given: string, { now }: DeleteOptions): Promise<string> {
  const { point, moment, lost } = await run.call('pointShow', { point: given });
  if (moment !== null) {
    throw new ApplianceError('BAD_ARGUMENT', `${given} is a moment of a journal, not a recovery point`, {
      hint: `Name the recovery point by its id; \`understudy points ${point.machine.name}\` lists them.`,
    });
  }
  const { name } = point.machine;
  const how = now === true ? ' for good' : '';
  const which = `${point.id} of ${name}, taken ${formatTime(point.createdAt)}`;
  const consequence = lost
    ? `The recovery point ${which} is lost. ${LOST_MEANING} This gives it up for good.`
    : `This deletes the recovery point ${which}${how}.`;
  await confirmByName(run, { name, consequence });
  return point.id;
}

async function undelete(run: CommandRun, [point = '']: readonly string[]): Promise<Outcome> {
  const report = await run.call('undelete', { point });
  return { value: report, text: `Brought back ${report.point} of ${plain(report.machine)}.\n` };
}

async function gc(run: CommandRun, _args: readonly string[], { now }: { readonly now?: boolean }): Promise<Outcome> {
  const report = await run.call('gc', defined({ now }));
  // Nothing to collect is done; something, and no room to do it, is not.
  const isStuck = report.packsWithoutRoom > 0 && report.freedBytes <= 0;
  return { value: report, text: renderGc(report), exitCode: isStuck ? EXIT_CODES.noSpace : EXIT_CODES.ok };
}

function renderGc(report: GcReport): string {
  const packs = `${count(report.packsDeleted, 'pack')} deleted, ${report.packsRewritten} rewritten`;
  const purged = report.pointsPurged === 0 ? '' : `, ${count(report.pointsPurged, 'deleted point')} purged`;
  const grace =
    report.pointsInGrace === 0
      ? ''
      : `${count(report.pointsInGrace, 'deleted point')} can still be brought back; \`understudy gc --now\` frees them.\n`;
  const head = `Freed ${formatBytes(report.freedBytes)} in ${formatDuration(report.durationMs)}: ${packs}${purged}.`;
  const stuck =
    report.packsWithoutRoom === 0
      ? ''
      : `${count(report.packsWithoutRoom, 'pack')} with garbage could not be rewritten for want of room; run \`understudy gc\` again when there is some.\n`;
  return `${head}\n${formatBytes(report.liveBytes)} are in use.\n${stuck}${grace}`;
}
