// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { PolicyPreviewReport, PolicyReport } from '../../api/schemas/policies.ts';
import { confirmByName } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { count, formatBytes, formatDuration, formatTimeIn, plain } from '../format.ts';
import { addPolicyOptions, type PolicyOptions, policyWishes, requiredParts } from '../policy-options.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, indented, renderFields, renderTable } from '../table.ts';

interface ConfirmOptions {
  readonly yes?: boolean;
}

interface ShortenOptions {
  readonly shorten?: boolean;
}

const HOW =
  'Machines are chosen by name (--machine, with * and ?), by --tag or --folder (words in square brackets in the title or ' +
  'description of the machine: [gold], [/prod/web]), or with --all; --except leaves some out. Machines that come are protected by ' +
  'themselves. Of several policies that choose a machine the one of the highest --priority has it, among equals the first by name.';

export function addPolicy(program: Command, cli: CliRun): void {
  const policy = defineGroup(program, 'policy', 'protect machines by policies');
  addChanges(policy, cli);
  defineCommand(policy, cli, {
    usage: 'list',
    summary: 'list the policies',
    description: 'Lists the policies: what they choose, when they run, what they keep.',
    examples: [['understudy policy list', 'all of them']],
    action: list,
  });
  defineCommand(policy, cli, {
    usage: 'show <name>',
    summary: 'show one policy',
    description: 'Shows everything that a policy says.',
    examples: [['understudy policy show nightly', 'the policy `nightly`']],
    action: show,
  });
  defineCommand(policy, cli, {
    usage: 'preview <name>',
    summary: 'show which machines a policy has, and what it does with them',
    description:
      'Shows which machines a policy has now and which it would have but for another one, how many of their recovery points it ' +
      'keeps, when it runs next, and how much room that may take, from what earlier runs stored. Changes nothing.',
    examples: [['understudy policy preview nightly', 'the policy `nightly`']],
    action: preview,
  });
  addEnds(policy, cli);
}

function addChanges(policy: Command, cli: CliRun): void {
  defineCommand<PolicyOptions>(policy, cli, {
    usage: 'create <name>',
    summary: 'protect machines by a new policy',
    description:
      `Protects machines from now on: by a --schedule, continuously (--continuous), or with a state each few seconds (--interval). ${HOW}\n\n` +
      'With --keep-… the recovery points of its machines go when they are too many, those that were taken by hand among them; ' +
      'where some would go at once, --shorten is needed. The work is done by `understudy serve`, which is started in the ' +
      'background when it does not run.',
    examples: [
      ['understudy policy create all --all --schedule "daily 22:00"', 'every machine'],
      ['understudy policy create db --tag db --schedule "every 15m"', 'four times an hour'],
      ['understudy policy create core --machine "core-*" --continuous', 'every write'],
    ],
    options: addPolicyOptions,
    action: create,
  });
  defineCommand<PolicyOptions>(policy, cli, {
    usage: 'set <name>',
    summary: 'change a policy',
    description:
      'Changes what is named, and leaves the rest. Any choice of machines replaces all of it, and so does any --keep-…. What lets recovery ' +
      'points go that stay now needs --shorten.',
    examples: [
      ['understudy policy set nightly --schedule "daily 23:30"', 'another time'],
      ['understudy policy set nightly --keep-daily 7 --shorten', 'fewer points'],
      ['understudy policy set nightly --clear window --clear bandwidth', 'at any time, as fast as it can'],
    ],
    options: (command) =>
      addPolicyOptions(command).option(
        '--clear <part>',
        'what it does not say any more: rpo, window, bandwidth, …',
        collect,
      ),
    action: set,
  });
  defineCommand<ShortenOptions>(policy, cli, {
    usage: 'enable <name>',
    summary: 'let a policy work again',
    description: 'Lets a policy that was disabled work again.',
    examples: [['understudy policy enable nightly', 'the policy `nightly`']],
    options: (command) => command.option('--shorten', 'even if recovery points go that stay now'),
    action: async (run, [name = ''], { shorten }) => {
      const report = await run.callService('policyEnable', defined({ name, shorten }));
      return { value: report, text: `Policy ${plain(name)} works again.\n` };
    },
  });
}

function addEnds(policy: Command, cli: CliRun): void {
  defineCommand<ConfirmOptions>(policy, cli, {
    usage: 'disable <name>',
    summary: 'let a policy rest',
    description:
      'Lets a policy rest: it takes no recovery points, deletes none, and continuous protection that it began ends. Its machines are ' +
      'not protected, unless another policy chooses them. Asks for its name unless --yes is given.',
    examples: [['understudy policy disable nightly', 'asks first']],
    options: (command) => command.option('--yes', 'do not ask'),
    action: (run, [name = ''], options) => end(run, 'policyDisable', name, options),
  });
  defineCommand<ConfirmOptions>(policy, cli, {
    usage: 'delete <name>',
    summary: 'delete a policy',
    description: 'As `disable`, and forgets it. Recovery points stay. Asks for its name unless --yes is given.',
    examples: [['understudy policy delete nightly', 'asks first']],
    options: (command) => command.option('--yes', 'do not ask'),
    action: (run, [name = ''], options) => end(run, 'policyDelete', name, options),
  });
}

function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

async function create(run: CommandRun, [name = '']: readonly string[], options: PolicyOptions): Promise<Outcome> {
  const wishes = policyWishes(options);
  const report = await run.callService('policyCreate', { name, ...wishes, ...requiredParts(wishes) });
  const text = `Policy ${run.paint('bold', plain(name))} works from now on.\n${fieldsOf(report, run)}\`understudy policy preview ${plain(name)}\` shows its machines.\n`;
  return { value: report, text };
}

async function set(
  run: CommandRun,
  [name = '']: readonly string[],
  { clear, ...options }: PolicyOptions & { readonly clear?: readonly ClearedPart[] },
): Promise<Outcome> {
  const report = await run.call('policySet', defined({ name, ...policyWishes(options), clear }));
  return { value: report, text: `${run.paint('bold', plain(name))}\n${fieldsOf(report, run)}` };
}

type ClearedPart =
  | 'schedule'
  | 'interval'
  | 'durability'
  | 'journalWindow'
  | 'journalSize'
  | 'rpo'
  | 'window'
  | 'bandwidth';

async function end(
  run: CommandRun,
  operation: 'policyDisable' | 'policyDelete',
  name: string,
  { yes }: ConfirmOptions,
): Promise<Outcome> {
  if (yes !== true) {
    const { machines } = await run.call('policyPreview', { name });
    const taken = machines.filter(({ isTaken }) => isTaken).length;
    const consequence = `Policy ${name} has ${count(taken, 'machine')}; without it they are protected only where another policy chooses them.`;
    await confirmByName(run, { name, consequence, asked: "the policy's name" });
  }
  const report = await run.call(operation, { name });
  const what = operation === 'policyDelete' ? 'is deleted' : 'rests';
  return { value: report, text: `Policy ${plain(name)} ${what}. Recovery points stay.\n` };
}

async function list(run: CommandRun): Promise<Outcome> {
  const policies = await run.call('policyList', {});
  if (policies.length === 0) {
    return { value: policies, text: 'There is no policy yet: `understudy policy create` makes one.\n' };
  }
  const columns: Column<PolicyReport>[] = [
    { title: 'POLICY', cell: ({ name }) => plain(name) },
    { title: 'MACHINES', cell: selectionText },
    { title: 'WHEN', cell: whenText },
    { title: 'RPO', align: 'right', cell: ({ rpoTargetMs }) => formatDuration(rpoTargetMs) },
    { title: 'KEEPS', cell: keepText },
    { title: '', cell: ({ enabled }) => (enabled ? '' : run.paint('yellow', 'disabled')) },
  ];
  return { value: policies, text: renderTable(policies, columns, run.paint) };
}

async function show(run: CommandRun, [name = '']: readonly string[]): Promise<Outcome> {
  const report = await run.call('policyShow', { name });
  return { value: report, text: `${run.paint('bold', plain(name))}\n${fieldsOf(report, run)}` };
}

async function preview(run: CommandRun, [name = '']: readonly string[]): Promise<Outcome> {
  const report = await run.call('policyPreview', { name });
  const { policy, machines, next, keptPoints, expectedBytes, problems } = report;
  const columns: Column<PolicyPreviewReport['machines'][number]>[] = [
    { title: 'MACHINE', cell: ({ machine }) => plain(machine) },
    { title: '', cell: ({ isTaken }) => (isTaken ? 'yes' : run.paint('yellow', 'no')) },
    { title: 'KEEPS', align: 'right', cell: ({ kept }) => String(kept) },
    { title: 'GO', align: 'right', cell: ({ going }) => (going === 0 ? '0' : run.paint('red', String(going))) },
    { title: 'WHY', cell: ({ reason }) => plain(reason) },
  ];
  const room = expectedBytes === null ? 'nobody knows yet' : `about ${formatBytes(expectedBytes)}`;
  const facts = renderFields(
    [
      ['next', next.map((iso) => formatTimeIn(iso, policy.timeZone)).join(', ') || 'all the time'],
      ['points of a machine', keptPoints === null ? 'all stay' : `${keptPoints} at most, in the long run`],
      ['room', room],
    ],
    run.paint,
  );
  const rows = machines.length === 0 ? '  No machine fits.\n' : indented(renderTable(machines, columns, run.paint));
  const notes = problems.map((problem) => `  - ${plain(problem)}\n`).join('');
  return { value: report, text: `${run.paint('bold', plain(name))}\n${facts}\n${rows}${notes}` };
}

function fieldsOf(policy: PolicyReport, run: CommandRun): string {
  const { rpoTargetMs, window, bandwidth, quiesce, priority, timeZone, enabled } = policy;
  const fields: [string, string][] = [
    ['machines', selectionText(policy)],
    ['when', `${whenText(policy)} (${plain(timeZone)})`],
    ['RPO target', formatDuration(rpoTargetMs)],
    ['keeps', keepText(policy)],
    ...(window === undefined ? [] : ([['window', plain(window)]] as [string, string][])),
    ...(bandwidth === undefined ? [] : ([['bandwidth', `${plain(bandwidth)} per second`]] as [string, string][])),
    ...(quiesce === 'try' ? [] : ([['quiesce', quiesce]] as [string, string][])),
    ['priority', String(priority)],
    ...(enabled ? [] : ([['state', 'disabled']] as [string, string][])),
  ];
  return renderFields(fields, run.paint);
}

function selectionText({ machines }: PolicyReport): string {
  const { all, names = [], ids = [], tags = [], folders = [], hypervisors = [], except = [] } = machines;
  const chosen = all === true ? ['all'] : [...names, ...ids, ...tags.map((tag) => `[${tag}]`), ...folders];
  const where = hypervisors.length === 0 ? '' : ` on ${hypervisors.join(', ')}`;
  const without = except.length === 0 ? '' : ` except ${except.join(', ')}`;
  return plain(`${chosen.join(', ')}${where}${without}`);
}

function whenText({ mode, schedule, interval }: PolicyReport): string {
  if (mode === 'continuous') return 'every write';
  return plain(mode === 'interval' ? `a state each ${interval}` : (schedule ?? ''));
}

function keepText({ keep }: PolicyReport): string {
  const parts = Object.entries(keep).map(([part, value]) =>
    part === 'within' ? `within ${value}` : `${value} ${part}`,
  );
  return parts.length === 0 ? 'everything' : plain(parts.join(', '));
}
