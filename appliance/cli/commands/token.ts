// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { SessionReport, TokenSummary } from '../../api/schemas/access.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { formatTime, plain } from '../format.ts';
import { collect, machineIds, parseRole, ROLE_OPTION } from '../role-option.ts';
import type { CliRun } from '../run-cli.ts';
import { type Column, renderTable } from '../table.ts';

interface CreateOptions {
  readonly role?: TokenSummary['role'];
  readonly machine?: readonly string[];
  readonly expires?: string;
}

export function addToken(program: Command, cli: CliRun): void {
  const token = defineGroup(program, 'token', 'API tokens: keys for programs');
  defineCommand(token, cli, {
    usage: 'list',
    summary: 'list the API tokens',
    description: 'Lists the API tokens: of everybody for an administrator, for others their own.',
    examples: [['understudy token list', 'who may do what, and when it was used last']],
    action: list,
  });
  defineCommand<CreateOptions>(token, cli, {
    usage: 'create <name>',
    summary: 'make an API token, and print it, once',
    description:
      'Makes an API token and prints it. Only its hash is kept. A token may do what its role says, and never more than ' +
      'its maker may at that time.',
    examples: [
      ['understudy token create prometheus --role viewer', 'may only look'],
      ['understudy token create nightly --role operator --expires 90d', 'for a quarter of a year'],
    ],
    options: (command) =>
      command
        .option(ROLE_OPTION, 'what it may do (default: what you may)', parseRole)
        .option('--machine <name>', 'a machine, for the role restorer; may be repeated', collect)
        .option('--expires <time>', 'when it ends: 90d, or a time (default: never)'),
    action: create,
  });
  defineCommand(token, cli, {
    usage: 'revoke <id>',
    summary: 'make an API token worthless',
    description: 'Makes an API token worthless, at once. The id may be the name, where only one has it.',
    examples: [['understudy token revoke nightly', 'nobody can use it any more']],
    action: async (run, [id = '']) => {
      const revoked = await run.call('tokenRevoke', { id });
      return { value: revoked, text: `The token ${plain(revoked.name)} is revoked.\n` };
    },
  });
  addSession(program, cli);
}

function addSession(program: Command, cli: CliRun): void {
  const session = defineGroup(program, 'session', 'who is logged in');
  defineCommand(session, cli, {
    usage: 'list',
    summary: 'list who is logged in',
    description: 'Lists who is logged in with a browser: everybody for an administrator.',
    examples: [['understudy session list', 'and from where']],
    action: sessions,
  });
  defineCommand(session, cli, {
    usage: 'end <id>',
    summary: 'log a browser out',
    description: 'Ends a session; the browser has to log in again.',
    examples: [['understudy session end 3f2a91c04b7d8e11', 'the id is that of `session list`']],
    action: async (run, [id = '']) => {
      await run.call('sessionEnd', { id });
      return { value: { id }, text: 'The session has ended.\n' };
    },
  });
}

async function list(run: CommandRun): Promise<Outcome> {
  const tokens = await run.call('tokenList', {});
  if (tokens.length === 0) return { value: tokens, text: 'There is no token.\n' };
  const columns: Column<TokenSummary>[] = [
    { title: 'ID', cell: ({ id }) => id },
    { title: 'NAME', cell: ({ name }) => plain(name) },
    { title: 'BY', cell: ({ user }) => plain(user ?? 'the owner') },
    { title: 'ROLE', cell: ({ role, expired }) => (expired ? 'expired' : role) },
    { title: 'LAST USED', cell: ({ lastUsed }) => (lastUsed === null ? 'never' : formatTime(lastUsed)) },
  ];
  return { value: tokens, text: renderTable(tokens, columns, run.paint) };
}

async function create(run: CommandRun, [name = '']: readonly string[], options: CreateOptions): Promise<Outcome> {
  const { role, machine, expires } = options;
  const machines = await machineIds(run, machine);
  const made = await run.call('tokenCreate', defined({ name, role, machines, expires }));
  return { value: made, text: `${made.token}\n` };
}

async function sessions(run: CommandRun): Promise<Outcome> {
  const found = await run.call('sessionList', {});
  if (found.length === 0) return { value: found, text: 'Nobody is logged in.\n' };
  const columns: Column<SessionReport>[] = [
    { title: 'ID', cell: ({ id }) => id },
    { title: 'USER', cell: ({ user }) => plain(user) },
    { title: 'FROM', cell: ({ address }) => plain(address) },
    { title: 'LAST SEEN', cell: ({ seenAt }) => formatTime(seenAt) },
  ];
  return { value: found, text: renderTable(found, columns, run.paint) };
}
