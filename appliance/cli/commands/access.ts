// SPDX-License-Identifier: Apache-2.0
import { type Command, InvalidArgumentError } from 'commander';
import type { AccessSettingsReport, WhoAmIReport } from '../../api/schemas/access.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { renderFields } from '../table.ts';
import { linkText } from './user.ts';

interface SetOptions {
  readonly approvals?: boolean;
  readonly approvers?: number;
  readonly approvalHours?: number;
  readonly idleMinutes?: number;
  readonly sessionHours?: number;
}

export function addAccess(program: Command, cli: CliRun): void {
  defineCommand(program, cli, {
    usage: 'whoami',
    summary: 'say on whose behalf commands are carried out',
    description: 'Says on whose behalf commands are carried out, and with which role.',
    examples: [['understudy whoami', 'the owner of the state directory, or the token']],
    action: whoami,
  });
  const access = defineGroup(program, 'access', 'approvals, sessions, and the first administrator');
  defineCommand(access, cli, {
    usage: 'show',
    summary: 'show the settings of access',
    description: 'Shows the settings of access: approvals, sessions, single sign-on.',
    examples: [['understudy access show', 'as they are now']],
    action: async (run) => outcomeOf(run, await run.call('accessSettings', {})),
  });
  defineCommand<SetOptions>(access, cli, {
    usage: 'set',
    summary: 'change the settings of access',
    description:
      'Changes the settings of access. With approvals on, destructive acts and changes of users, roles and these ' +
      'settings need a second administrator.',
    examples: [
      ['understudy access set --approvals on', 'nobody deletes anything alone'],
      ['understudy access set --idle-minutes 15', 'log browsers out sooner'],
    ],
    options: (command) =>
      command
        .option('--approvals <state>', '`on`: destructive acts need a second person; `off`', parseSwitch)
        .option('--approvers <n>', 'people who have to agree, who asks included', parseWhole)
        .option('--approval-hours <n>', 'how long a request waits', parseWhole)
        .option('--idle-minutes <n>', 'a session that is not used ends after so long', parseWhole)
        .option('--session-hours <n>', 'a session ends after so long', parseWhole),
    action: set,
  });
  defineCommand(access, cli, {
    usage: 'setup-link',
    summary: 'print the link for the first administrator',
    description:
      'Prints a link that works once, within a day, with which the first administrator chooses a name and a password. ' +
      'A link from before is void. For the owner of the state directory, as long as there is no administrator.',
    examples: [['understudy access setup-link', 'the first start of `serve` prints one, too']],
    action: async (run) => {
      const link = await run.call('setupLink', {});
      return { value: link, text: linkText(link) };
    },
  });
}

async function whoami(run: CommandRun): Promise<Outcome> {
  const me = await run.call('whoami', {});
  return { value: me, text: `${describe(me)}\n` };
}

function describe({ kind, name, role, machines }: WhoAmIReport): string {
  const who = kind === 'local' ? `${plain(name)}, the owner of the appliance` : `${kind} ${plain(name)}`;
  return machines === null ? `${who}: ${role}` : `${who}: ${role} of ${machines.map(plain).join(', ')}`;
}

async function set(run: CommandRun, _args: readonly string[], options: SetOptions): Promise<Outcome> {
  const { approvals, approvers, approvalHours, idleMinutes: sessionIdleMinutes, sessionHours } = options;
  const wanted = defined({ approvals, approvers, approvalHours, sessionIdleMinutes, sessionHours });
  return outcomeOf(run, await run.call('accessSettingsUpdate', wanted));
}

function outcomeOf(run: CommandRun, settings: AccessSettingsReport): Outcome {
  const { approvals, approvers, approvalHours, sessionIdleMinutes, sessionHours, singleSignOn } = settings;
  const fields: (readonly [string, string])[] = [
    ['approvals', approvals ? `${approvers} people have to agree, within ${approvalHours} h` : 'off'],
    ['sessions', `end after ${sessionIdleMinutes} min without use, and after ${sessionHours} h`],
    ['single sign-on', singleSignOn === null ? 'off' : plain(singleSignOn.issuer)],
  ];
  return { value: settings, text: renderFields(fields, run.paint) };
}

function parseSwitch(text: string): boolean {
  if (text === 'on' || text === 'off') return text === 'on';
  throw new InvalidArgumentError('It is neither on nor off.');
}

function parseWhole(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It is not a whole number.');
}
