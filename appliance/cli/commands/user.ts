// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { InvitationReport, UserSummary } from '../../api/schemas/access.ts';
import { ApplianceError } from '../../core/errors.ts';
import { confirmByName } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { formatTime, plain } from '../format.ts';
import { collect, machineIds, parseRole, ROLE_OPTION } from '../role-option.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, renderTable } from '../table.ts';

interface AddOptions {
  readonly role: UserSummary['role'];
  readonly machine?: readonly string[];
  readonly displayName?: string;
}

interface SetOptions extends Partial<AddOptions> {
  readonly disable?: boolean;
  readonly enable?: boolean;
}

export function addUser(program: Command, cli: CliRun): void {
  const user = defineGroup(program, 'user', 'who may log in, and what they may do');
  defineCommand(user, cli, {
    usage: 'list',
    summary: 'list the users',
    description: 'Lists the users, with their roles.',
    examples: [['understudy user list', 'all of them']],
    action: list,
  });
  defineCommand<AddOptions>(user, cli, {
    usage: 'add <name>',
    summary: 'make a user, who chooses a password by a link',
    description:
      'Makes a user and prints a link that works once, within three days, with which the user chooses a password. ' +
      'What each role may do stands in docs/access.md.',
    examples: [
      ['understudy user add ann --role operator', 'may back up, boot, restore to new'],
      ['understudy user add rex --role restorer --machine web', 'may restore `web` only'],
    ],
    options: (command) =>
      command
        .requiredOption(ROLE_OPTION, 'viewer, operator, admin, or restorer', parseRole)
        .option('--machine <name>', 'a machine that a restorer may restore; may be repeated', collect)
        .option('--display-name <text>', 'the name for people'),
    action: add,
  });
  defineCommand<SetOptions>(user, cli, {
    usage: 'set <name>',
    summary: 'change role, machines or name of a user; disable',
    description:
      'Changes a user. Another role, other machines and --disable end the sessions of the user. The last ' +
      'administrator who is enabled stays one.',
    examples: [
      ['understudy user set ann --role viewer', 'may only look from now on'],
      ['understudy user set ann --disable', 'may not log in, nor may the tokens of ann'],
    ],
    options: (command) =>
      command
        .option(ROLE_OPTION, 'viewer, operator, admin, or restorer', parseRole)
        .option('--machine <name>', 'a machine that a restorer may restore; may be repeated', collect)
        .option('--display-name <text>', 'the name for people')
        .option('--disable', 'do not let the user log in')
        .option('--enable', 'let the user log in again'),
    action: set,
  });
  addUserRemoval(user, cli);
  addUserRescue(user, cli);
}

function addUserRemoval(user: Command, cli: CliRun): void {
  defineCommand<{ readonly yes?: boolean }>(user, cli, {
    usage: 'remove <name>',
    summary: 'delete a user, with sessions and tokens',
    description: 'Deletes a user, with sessions and tokens. Asks for the name unless --yes is given.',
    examples: [['understudy user remove ann', 'asks first']],
    options: (command) => command.option('--yes', 'do not ask'),
    action: remove,
  });
}

/** For who forgot a password or lost a second factor. */
function addUserRescue(user: Command, cli: CliRun): void {
  defineCommand(user, cli, {
    usage: 'invite <name>',
    summary: 'print a link with which a user chooses a password',
    description:
      'Prints a link that works once, within three days, with which the user chooses another password. A link from ' +
      'before is void.',
    examples: [['understudy user invite ann', 'for who forgot the password']],
    action: async (run, [name = '']) => {
      const invitation = await run.call('userInvite', { name });
      return { value: invitation, text: linkText(invitation) };
    },
  });
  defineCommand(user, cli, {
    usage: 'reset-second-factor <name>',
    summary: 'let a user log in without a second factor again',
    description: 'For who lost the app and the recovery codes. The user can set up another one after logging in.',
    examples: [['understudy user reset-second-factor ann', 'the password alone is enough again']],
    action: async (run, [name = '']) => {
      const user = await run.call('userSecondFactorReset', { name });
      return { value: user, text: `${plain(user.name)} logs in without a second factor.\n` };
    },
  });
}

async function list(run: CommandRun): Promise<Outcome> {
  const users = await run.call('userList', {});
  if (users.length === 0) {
    return { value: users, text: 'There is no user. `understudy user add NAME --role admin` makes one.\n' };
  }
  const columns: Column<UserSummary>[] = [
    { title: 'USER', cell: ({ name }) => plain(name) },
    { title: 'ROLE', cell: ({ role, machines }) => (machines === null ? role : `${role} of ${machines.length}`) },
    { title: 'LOGS IN', cell: logsIn },
    { title: 'NAME', cell: ({ displayName }) => plain(displayName) },
  ];
  return { value: users, text: renderTable(users, columns, run.paint) };
}

function logsIn({ disabled, hasPassword, hasSecondFactor, identity }: UserSummary): string {
  if (disabled) return 'disabled';
  if (hasPassword) return hasSecondFactor ? 'password and code' : 'password';
  return identity === null ? 'not yet' : 'single sign-on';
}

async function add(run: CommandRun, [name = '']: readonly string[], options: AddOptions): Promise<Outcome> {
  const { role, machine, displayName } = options;
  const machines = await machineIds(run, machine);
  const made = await run.call('userCreate', defined({ name, role, machines, displayName }));
  const link = made.invitation === null ? '' : linkText(made.invitation);
  return { value: made, text: `${plain(made.user.name)} is ${made.user.role}.\n${link}` };
}

async function set(run: CommandRun, [name = '']: readonly string[], options: SetOptions): Promise<Outcome> {
  const { role, machine, displayName, disable, enable } = options;
  if (disable === true && enable === true) throw new ApplianceError('BAD_ARGUMENT', 'give --disable or --enable');
  const disabled = disable === true ? true : enable === true ? false : undefined;
  const machines = await machineIds(run, machine);
  const user = await run.call('userUpdate', defined({ name, role, machines, displayName, disabled }));
  const standing = user.disabled ? ', and disabled' : '';
  return { value: user, text: `${plain(user.name)} is ${user.role}${standing}.\n` };
}

async function remove(
  run: CommandRun,
  [name = '']: readonly string[],
  { yes }: { readonly yes?: boolean },
): Promise<Outcome> {
  if (yes !== true) {
    const consequence = `This deletes the user ${name}, with sessions and API tokens.`;
    await confirmByName(run, { name, consequence, asked: "the user's name" });
  }
  const user = await run.call('userDelete', { name });
  return { value: user, text: `${plain(user.name)} is gone.\n` };
}

/** How somebody uses an invitation. */
export function linkText({ token, expiresAt }: InvitationReport): string {
  return `Link, once, until ${formatTime(expiresAt)}, at the address of the appliance:\n  /setup#${token}\n`;
}
