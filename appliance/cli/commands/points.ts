// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { PointDetails, PointSummary } from '../../api/operations.ts';
import type { MomentDetails } from '../../api/schemas/journal.ts';
import type { PointDisk } from '../../repository/manifest.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import {
  count,
  formatAge,
  formatBytes,
  formatDuration,
  formatLocalTime,
  formatTime,
  plain,
  shortIds,
} from '../format.ts';
import { POINT_ARGUMENT } from '../point-argument.ts';
import type { CliRun } from '../run-cli.ts';
import { formatMoment } from '../state-text.ts';
import { type Column, indented, renderFields, renderTable } from '../table.ts';
import { addWide, type WideOption } from '../wide-option.ts';
import { describeHold, describeLock } from './guards.ts';

export function addPoints(program: Command, cli: CliRun): void {
  defineCommand<WideOption>(program, cli, {
    usage: 'points [machine]',
    summary: 'list the recovery points',
    description:
      'Lists the recovery points of all machines, or of one (by name or id), newest first. DATA is what the point holds, ' +
      'STORED what the repository grew by. The beginning of an id is as good as all of it. --wide adds the columns ' +
      'CONSISTENT, DISKS, SIZE, NEW (what no earlier point held), TOOK and KEPT (held or locked).',
    examples: [
      ['understudy points', 'all machines'],
      ['understudy points web', 'one machine'],
      ['understudy points web --wide', 'with whole ids and all columns'],
      ["understudy points web --json | jq -r '.[0].id'", 'the id of the newest'],
    ],
    options: addWide,
    action: points,
  });
  const point = defineGroup(program, 'point', 'show one recovery point');
  defineCommand(point, cli, {
    usage: 'show <point>',
    summary: 'show what a recovery point holds',
    description: `Shows what a recovery point holds and how it was taken. ${POINT_ARGUMENT}`,
    examples: [
      ['understudy point show 3f2a', 'by the beginning of its id'],
      ['understudy point show web@latest', 'the newest of `web`'],
      ['understudy point show web@2026-11-21T14:00', 'the state that `web` had then'],
    ],
    action: show,
  });
}

async function points(run: CommandRun, [machine]: readonly string[], { wide }: WideOption): Promise<Outcome> {
  const found = await run.call('points', defined({ machine }));
  if (found.length === 0) {
    const whose = machine === undefined ? '' : ` of ${plain(machine)}`;
    return { value: found, text: `There is no recovery point${whose} yet. \`understudy backup NAME\` takes one.\n` };
  }
  const columns = wide === true ? WIDE_COLUMNS : briefColumns(shortIds(found.map((point) => point.id)));
  const machines = new Set(found.map((point) => point.machineId)).size;
  const stored = found.reduce((sum, point) => sum + point.storedBytes, 0);
  const summary = `${count(found.length, 'point')} of ${count(machines, 'machine')}, ${formatBytes(stored)} stored when they were taken`;
  const table = `${renderTable(found, columns, run.paint)}${run.paint('dim', summary)}\n`;
  return { value: found, text: `${table}${renderGuarded(found)}${renderLost(found, run)}` };
}

/** Fits in 80 columns with names of up to 16 characters. */
function briefColumns(shortId: (id: string) => string): readonly Column<PointSummary>[] {
  return [
    { title: 'POINT', cell: (point) => shortId(point.id) },
    { title: 'MACHINE', cell: (point) => plain(point.machine) },
    { title: 'TAKEN', cell: (point) => formatLocalTime(point.createdAt) },
    { title: 'KIND', cell: kindOf },
    { title: 'DATA', align: 'right', cell: (point) => formatBytes(point.dataBytes) },
    { title: 'STORED', align: 'right', cell: (point) => formatBytes(point.storedBytes) },
  ];
}

const WIDE_COLUMNS: readonly Column<PointSummary>[] = [
  { title: 'POINT', cell: (point) => point.id },
  { title: 'MACHINE', cell: (point) => plain(point.machine) },
  { title: 'TAKEN', cell: (point) => formatTime(point.createdAt) },
  { title: 'KIND', cell: kindOf },
  { title: 'CONSISTENT', cell: (point) => point.consistency.replace('-consistent', '') },
  { title: 'DISKS', align: 'right', cell: (point) => String(point.disks) },
  { title: 'SIZE', align: 'right', cell: (point) => formatBytes(point.sizeBytes) },
  { title: 'DATA', align: 'right', cell: (point) => formatBytes(point.dataBytes) },
  { title: 'NEW', align: 'right', cell: (point) => formatBytes(point.newChunkBytes) },
  { title: 'STORED', align: 'right', cell: (point) => formatBytes(point.storedBytes) },
  { title: 'TOOK', align: 'right', cell: (point) => formatDuration(point.durationMs) },
  { title: 'KEPT', cell: describeGuards },
];

/** How many are shown by name below the table, which has no room for it. */
const MAX_NAMED = 5;

function renderGuarded(found: readonly PointSummary[]): string {
  const guarded = found.filter(({ hold, lock }) => hold !== null || lock !== null);
  const shortId = shortIds(found.map(({ id }) => id));
  const lines = guarded.slice(0, MAX_NAMED).map((point) => `${shortId(point.id)} is ${describeGuards(point)}.\n`);
  const more = guarded.length - lines.length;
  return lines.join('') + (more > 0 ? `${count(more, 'more point')} cannot be deleted; see --wide.\n` : '');
}

function describeGuards({ hold, lock }: Pick<PointSummary, 'hold' | 'lock'>): string {
  return [describeLock(lock), describeHold(hold)].filter((text) => text !== undefined).join(', and ');
}

function kindOf(point: PointSummary): string {
  return point.lost ? 'lost' : point.kind;
}

function renderLost(found: readonly PointSummary[], run: CommandRun): string {
  const lost = found.filter((point) => point.lost).length;
  if (lost === 0) return '';
  const [are, they, them] = lost === 1 ? ['is', 'its manifest', 'it'] : ['are', 'their manifests', 'them'];
  const text = `${count(lost, 'point')} ${are} lost: ${they} disappeared from the repository. \`understudy point show ID\` says more of ${them}.`;
  return `${run.paint('red', text)}\n`;
}

async function show(run: CommandRun, [point = '']: readonly string[]): Promise<Outcome> {
  const details = await run.call('pointShow', { point });
  return { value: details, text: renderPoint(details, run) };
}

/** What it means that a point is lost; also what its deletion gives up. */
export const LOST_MEANING: string =
  'Its manifest disappeared from the repository without having been deleted, so that it cannot be restored. What it ' +
  'holds is kept from `gc` all the same: when the file is put back from a copy of the repository, the point is there again.';

function renderPoint({ point, moment, usedBy, lost, hold, lock }: PointDetails, run: CommandRun): string {
  const { paint } = run;
  const age = formatAge(point.createdAt, run.io.clock.nowMs());
  const facts = renderFields(
    [
      ['machine', `${plain(point.machine.name)} (${point.machine.id})`],
      ['taken', age === '' ? formatTime(point.createdAt) : `${formatTime(point.createdAt)} (${age})`],
      ['kind', point.reason === '' ? point.kind : `${point.kind}: ${plain(point.reason)}`],
      ['parent', point.parent ?? 'none'],
      ['consistency', point.consistency],
      ['took', formatDuration(point.durationMs)],
      ['used by', usedBy.length === 0 ? 'nothing' : usedBy.map(plain).join(', ')],
      [
        'deletion',
        [describeLock(lock), describeHold(hold), ...(usedBy.length === 0 ? [] : ['in use'])]
          .filter((text) => text !== undefined)
          .join('; ') || 'nothing forbids it',
      ],
    ],
    paint,
  );
  const columns: Column<PointDisk>[] = [
    { title: 'DISK', cell: (disk) => plain(disk.name) },
    { title: 'SIZE', align: 'right', cell: (disk) => formatBytes(disk.sizeBytes) },
    { title: 'DATA', align: 'right', cell: (disk) => formatBytes(disk.dataBytes) },
    { title: 'KIND', cell: (disk) => disk.kind },
    { title: 'CHANGED', align: 'right', cell: (disk) => formatBytes(disk.stats.changedBytes) },
    { title: 'READ', align: 'right', cell: (disk) => formatBytes(disk.stats.readBytes) },
    { title: 'NEW', align: 'right', cell: (disk) => formatBytes(disk.stats.newChunkBytes) },
    { title: 'STORED', align: 'right', cell: (disk) => formatBytes(disk.stats.storedBytes) },
  ];
  const reasons = point.disks.filter((disk) => disk.reason !== '' && disk.reason !== point.reason);
  const files = point.attachments.map((file) => `  ${plain(file.name)}  ${formatBytes(file.lengthBytes)}\n`);
  const sections = [
    moment === null ? '' : renderMoment(point, moment, run),
    `${paint('bold', `${moment === null ? 'Recovery point' : 'Above the recovery point'} ${point.id}`)}\n${facts}`,
    lost
      ? `${paint(['bold', 'red'], 'This point is lost.')} ${LOST_MEANING}\n\`understudy delete ${point.id}\` gives it up.\n`
      : '',
    indented(renderTable(point.disks, columns, paint)),
    reasons.map((disk) => `  ${plain(disk.name)}: ${plain(disk.reason)}\n`).join(''),
    section(
      paint('yellow', 'Not in this point'),
      point.skipped.map((disk) => `  ${plain(disk.name)}: ${plain(disk.reason)}\n`),
    ),
    section(paint('bold', 'Kept with it'), files),
  ];
  return sections.filter((text) => text !== '').join('\n');
}

/** What a moment is, and how far from recovery points. */
function renderMoment({ id, machine }: PointDetails['point'], moment: MomentDetails, run: CommandRun): string {
  const { paint } = run;
  const age = formatAge(moment.time, run.io.clock.nowMs());
  const above = `${count(moment.recordsAbovePoint, 'record')}, ${formatDuration(moment.microsecondsAbovePoint / 1000)} after ${id}`;
  const distance = formatDuration(Math.abs(moment.nearestPointLaterMs));
  const nearest = `${moment.nearestPoint}, ${distance} ${moment.nearestPointLaterMs > 0 ? 'later' : 'earlier'}`;
  const facts = renderFields(
    [
      ['machine', `${plain(machine.name)} (${machine.id})`],
      ['time', age === '' ? formatMoment(moment.time) : `${formatMoment(moment.time)} (${age})`],
      ['sequence', String(moment.sequence)],
      ...(moment.bookmark === null ? [] : [['bookmark', plain(moment.bookmark)] as const]),
      ['consistency', moment.consistency],
      ['made of', above],
      ['nearest point', nearest],
    ],
    paint,
  );
  return `${paint('bold', 'Moment of the journal')}\n${facts}`;
}

function section(title: string, lines: readonly string[]): string {
  return lines.length === 0 ? '' : `${title}\n${lines.join('')}`;
}
