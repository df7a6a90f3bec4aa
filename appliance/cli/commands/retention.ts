// SPDX-License-Identifier: Apache-2.0
import { type Command, InvalidArgumentError } from 'commander';
import type {
  RetentionApplyReport,
  RetentionParams,
  RetentionPointReport,
  RetentionReport,
} from '../../api/schemas/retention.ts';
import { ApplianceError } from '../../core/errors.ts';
import { confirmByName } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { count, formatTime, formatTimeIn, plain, shortIds } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, renderTable, wrapped } from '../table.ts';

type KeepOptions = Omit<RetentionParams, 'machine'>;
type ApplyOptions = KeepOptions & { readonly yes?: boolean };

/** What a table is made for, and where it is not known how wide the terminal is. */
const TABLE_COLUMNS = 80;
/** Up to the reasons, without the machine: id, time, verdict, and gaps. */
const FIXED_COLUMNS: number = 8 + 2 + 16 + 2 + 4 + 2;
const MAX_NAME = 16;

const HOW =
  'Each --keep chooses by itself, and a point stays when any of them chose it. --keep-daily 7 chooses the newest point of each ' +
  'of the 7 newest days that have one; the others go likewise by hours, weeks (ISO 8601), months and years of --time-zone. ' +
  '--keep-within goes back from the newest point (12h, 14d, 8w, 6mo, 1y6mo). Without any --keep everything stays. The newest ' +
  'point always stays, as do points that are held, locked, in use, damaged, or ahead of the clock.';

export function addRetention(program: Command, cli: CliRun): void {
  const retention = defineGroup(program, 'retention', 'delete recovery points by a rule');
  defineCommand<KeepOptions>(retention, cli, {
    usage: 'preview [machine]',
    summary: 'say of each recovery point whether a rule keeps it, and why',
    description: `Says of each recovery point of a machine, or of --all, whether it would stay, with all reasons. Changes nothing. ${HOW}`,
    examples: [
      ['understudy retention preview web --keep-daily 7 --keep-weekly 4', 'one machine'],
      ['understudy retention preview --all --keep-within 14d', 'each machine by itself'],
    ],
    options: addKeep,
    action: preview,
  });
  defineCommand<ApplyOptions>(retention, cli, {
    usage: 'apply [machine]',
    summary: 'delete the recovery points that a rule does not keep',
    description:
      'Deletes the recovery points of a machine, or of --all, that the rule does not keep; `undelete` brings each back for 7 days. ' +
      "Shows them and asks for the machine's name (or `all`) unless --yes is given. Everything is read before the first one is deleted, and any " +
      `error stops it there. ${HOW}`,
    examples: [
      ['understudy retention apply web --keep-daily 7 --keep-weekly 4', 'asks first'],
      ['understudy retention apply --all --keep-last 30 --yes', 'does not ask'],
    ],
    options: (command) => addKeep(command).option('--yes', 'do not ask'),
    action: apply,
  });
}

function addKeep(command: Command): Command {
  return command
    .option('--all', 'all machines, each by itself')
    .option('--keep-last <n>', 'the newest points', wholeNumber)
    .option('--keep-hourly <n>', 'the newest point of each hour', wholeNumber)
    .option('--keep-daily <n>', 'the newest point of each day', wholeNumber)
    .option('--keep-weekly <n>', 'the newest point of each week', wholeNumber)
    .option('--keep-monthly <n>', 'the newest point of each month', wholeNumber)
    .option('--keep-yearly <n>', 'the newest point of each year', wholeNumber)
    .option('--keep-within <span>', 'every point not older than the newest by more')
    .option('--time-zone <zone>', 'whose calendar (default: the one of this command)');
}

function wholeNumber(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new InvalidArgumentError('it must be a whole number from 1 on.');
  return Number(text);
}

async function preview(run: CommandRun, [machine]: readonly string[], options: KeepOptions): Promise<Outcome> {
  const report = await run.call('retentionPreview', paramsOf(machine, options));
  return { value: report, text: renderReport(report, run) };
}

async function apply(run: CommandRun, [machine]: readonly string[], options: ApplyOptions): Promise<Outcome> {
  const params = paramsOf(machine, options);
  const plan = options.yes === true ? undefined : await confirmApply(run, params);
  const report = await run.call('retentionApply', defined({ ...params, plan }));
  return { value: report, text: renderApplied(report) };
}

/** The plan that was confirmed; undefined where nothing goes and nobody needs to be asked. */
async function confirmApply(run: CommandRun, params: RetentionParams): Promise<string> {
  const report = await run.call('retentionPreview', params);
  if (report.going === 0) return report.plan;
  if (run.canAsk()) run.writeError(renderReport(report, run));
  await confirmByName(run, {
    name: params.machine ?? 'all',
    consequence: `This deletes ${count(report.going, 'recovery point')}; ${stay(report.kept)}. \`understudy undelete\` brings each back for 7 days.`,
    asked: params.machine === undefined ? '`all`' : "the machine's name",
  });
  return report.plan;
}

function paramsOf(machine: string | undefined, options: KeepOptions): RetentionParams {
  const { all, keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly, keepWithin } = options;
  if ((machine === undefined) === (all !== true)) {
    throw new ApplianceError('BAD_ARGUMENT', 'name one machine, or say --all');
  }
  const timeZone = options.timeZone ?? Intl.DateTimeFormat().resolvedOptions().timeZone;
  const keep = { keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly, keepWithin };
  return defined({ machine, all, ...keep, timeZone });
}

/** Fits in 80 columns: reasons go on in the lines below. */
function renderReport(report: RetentionReport, run: CommandRun): string {
  const { points, kept, going, timeZone } = report;
  if (points.length === 0) return 'There is no recovery point yet.\n';
  const shortId = shortIds(points.map(({ id }) => id));
  const isOne = new Set(points.map(({ machineId }) => machineId)).size === 1;
  const nameColumns = isOne ? 0 : Math.max(7, ...points.map(({ machine }) => nameOf(machine).length)) + 2;
  const reasonColumns = TABLE_COLUMNS - FIXED_COLUMNS - nameColumns - (shortId(points[0]?.id ?? '').length - 8);
  const rows = points.flatMap((point) => {
    const text = point.reasons.map(plain).join('; ');
    return wrapped(text, reasonColumns).map((line, n) => ({ point, line, isFirst: n === 0 }));
  });
  type Row = (typeof rows)[number];
  const first = (cell: (point: RetentionPointReport) => string) => (row: Row) => (row.isFirst ? cell(row.point) : '');
  const columns: Column<Row>[] = [
    { title: 'POINT', cell: first(({ id }) => shortId(id)) },
    ...(isOne ? [] : [{ title: 'MACHINE', cell: first(({ machine }) => nameOf(machine)) }]),
    { title: 'TAKEN', cell: first(({ createdAt }) => formatTimeIn(createdAt, timeZone)) },
    { title: '', cell: first(({ keep }) => (keep ? 'keep' : run.paint('red', 'go'))) },
    { title: 'WHY', cell: ({ line }) => line },
  ];
  const summary = `${count(kept + going, 'point')}: ${stay(kept)}, ${going} ${going === 1 ? 'goes' : 'go'}; calendar of ${plain(timeZone)}`;
  return `${renderTable(rows, columns, run.paint)}${run.paint('dim', summary)}\n`;
}

/** `2 stay`, `1 stays`. */
function stay(points: number): string {
  return `${points.toLocaleString('en-US')} ${points === 1 ? 'stays' : 'stay'}`;
}

function nameOf(machine: string): string {
  const name = plain(machine);
  return name.length <= MAX_NAME ? name : `${name.slice(0, MAX_NAME - 1)}…`;
}

function renderApplied({ deleted, spared, kept, recoverableUntil }: RetentionApplyReport): string {
  const sparedLines = spared.map(
    ({ point, machine, reason }) => `${point} of ${plain(machine)} stays after all: ${plain(reason)}\n`,
  );
  if (recoverableUntil === null) return `Nothing to delete: ${stay(kept)}.\n${sparedLines.join('')}`;
  const lines = deleted.map(({ point, machine }) => `  ${point} of ${plain(machine)}\n`);
  const undo = `\`understudy undelete ID\` brings each back until ${formatTime(recoverableUntil)}; \`understudy gc\` frees their space after that.`;
  return `Deleted ${count(deleted.length, 'recovery point')}; ${stay(kept + spared.length)}:\n${lines.join('')}${undo}\n${sparedLines.join('')}`;
}
