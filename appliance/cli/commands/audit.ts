// SPDX-License-Identifier: Apache-2.0
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { AuditActReport, AuditParams } from '../../api/schemas/audit.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, renderTable } from '../table.ts';
import { zonedTime } from '../zoned-moment.ts';

const OUTCOMES = ['ok', 'failed', 'denied', 'unfinished'] as const;
/** Exit code of damage. */
const CORRUPT = 5;

interface ListOptions {
  readonly since?: string;
  readonly until?: string;
  readonly who?: string;
  readonly action?: string;
  readonly target?: string;
  readonly outcome?: AuditParams['outcome'];
  readonly newest?: number;
}

export function addAudit(program: Command, cli: CliRun): void {
  const audit = defineGroup(program, 'audit', 'who did what');
  defineCommand<ListOptions>(audit, cli, {
    usage: 'list',
    summary: 'list who did what, newest first',
    description:
      'Lists what was changed or started, by whom, from where, and what became of it; denied attempts, too. What is ' +
      '`unfinished` goes on at the moment, or the process ended before its end was recorded.',
    examples: [
      ['understudy audit list --since "2 days ago"', 'the last two days'],
      ['understudy audit list --outcome denied', 'what somebody was kept from'],
      ['understudy audit list --who ada --action delete', 'what Ada has deleted'],
    ],
    options: addFilters,
    action: list,
  });
  defineCommand(audit, cli, {
    usage: 'verify',
    summary: 'check that nobody has changed the log',
    description:
      'Reads the whole log, checks that each entry follows from the one before it, and compares it with the anchors in the ' +
      'repository. Names the first entry that is not as it was written.',
    examples: [['understudy audit verify', 'exit code 5 when something is wrong']],
    action: verify,
  });
}

function addFilters(command: Command): Command {
  return command
    .option('--since <time>', 'from this time on')
    .option('--until <time>', 'up to this time')
    .option('--who <name>', 'by this user or token')
    .option('--action <operation>', 'this operation only')
    .option('--target <name>', 'done to this, as it was named then')
    .addOption(new Option('--outcome <outcome>', 'with this result only').choices(OUTCOMES))
    .option('--newest <count>', 'the newest so many (default: 200)', parseCount);
}

function parseCount(text: string): number {
  if (/^[1-9]\d{0,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a whole number from 1 to 10000.');
}

async function list(run: CommandRun, _args: readonly string[], options: ListOptions): Promise<Outcome> {
  const { who, action, target, outcome, newest } = options;
  const since = options.since === undefined ? undefined : zonedTime(options.since);
  const until = options.until === undefined ? undefined : zonedTime(options.until);
  const acts = await run.call('audit', defined({ since, until, who, action, target, outcome, newest }));
  if (acts.length === 0) return { value: acts, text: 'Nothing was recorded that fits.\n' };
  const { paint } = run;
  const columns: Column<AuditActReport>[] = [
    { title: 'TIME', cell: ({ at }) => formatTime(at) },
    { title: 'WHO', cell: ({ who: { name, role } }) => `${plain(name)} (${plain(role)})` },
    { title: 'FROM', cell: ({ from }) => plain(from ?? 'this host') },
    { title: 'ACTION', cell: (act) => plain(act.action) },
    { title: 'TARGET', cell: (act) => plain(act.target ?? '–') },
    { title: 'RESULT', cell: (act) => paint(act.outcome === 'ok' ? 'reset' : 'yellow', resultOf(act)) },
  ];
  return { value: acts, text: renderTable(acts, columns, paint) };
}

function resultOf({ outcome, code }: AuditActReport): string {
  return code === null ? outcome : `${outcome}: ${plain(code)}`;
}

async function verify(run: CommandRun): Promise<Outcome> {
  const verdict = await run.call('auditVerify', {});
  const { bad, entries, first, last, segments, anchors } = verdict;
  if (bad !== null) {
    const where = bad.segment === null ? '' : ` (segment ${bad.segment})`;
    return {
      value: verdict,
      text: `Entry ${bad.sequence}${where} is wrong: ${plain(bad.reason)}.\n`,
      exitCode: CORRUPT,
    };
  }
  const compared = anchors === 0 ? 'No anchor of the repository could be compared.' : `${anchors} anchors fit.`;
  const begins = first > 1 ? ` It begins with entry ${first}: older segments were moved away.` : '';
  const whole =
    entries === 0
      ? 'The log is empty.'
      : `Entries ${first} to ${last} in ${segments} segments are as they were written.`;
  return { value: verdict, text: `${whole}${begins} ${compared}\n` };
}
