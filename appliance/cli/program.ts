// SPDX-License-Identifier: Apache-2.0
import { Command } from 'commander';
import { programVersion } from '../api/program-version.ts';
import { addAccess } from './commands/access.ts';
import { addApproval } from './commands/approval.ts';
import { addAudit } from './commands/audit.ts';
import { addBackup } from './commands/backup.ts';
import { addBoot } from './commands/boot.ts';
import { addCheck } from './commands/check.ts';
import { addConfig } from './commands/config.ts';
import { addDelete } from './commands/delete.ts';
import { addExport } from './commands/export.ts';
import { addGuards } from './commands/guards.ts';
import { addHypervisor } from './commands/hypervisor.ts';
import { addInit } from './commands/init.ts';
import { addJournal } from './commands/journal.ts';
import { addMachine } from './commands/machine.ts';
import { addMigrate } from './commands/migrate.ts';
import { addPoints } from './commands/points.ts';
import { addPolicy } from './commands/policy.ts';
import { addProtect } from './commands/protect.ts';
import { addRestore } from './commands/restore.ts';
import { addRetention } from './commands/retention.ts';
import { addRuns } from './commands/runs.ts';
import { addSchedule } from './commands/schedule.ts';
import { addServe } from './commands/serve.ts';
import { addSettings } from './commands/settings.ts';
import { addStandby } from './commands/standby.ts';
import { addStatus } from './commands/status.ts';
import { addToken } from './commands/token.ts';
import { addUser } from './commands/user.ts';
import { formatExamples } from './examples.ts';
import type { CliRun } from './run-cli.ts';
import { addServerOptions } from './server-options.ts';
import { stateDirectory } from './state-directory.ts';
import { paintFor } from './style.ts';

const DEFAULT_COLUMNS = 100;
/** Longer lists of subcommands would leave no room for what they do. */
const MAX_LISTED = 30;

/**
 * The tree of all commands. Help goes to standard output; what commander would print about an error goes to
 * `onUsageText` instead, and the error is thrown as a CommanderError.
 */
export function buildProgram(cli: CliRun, onUsageText: (text: string) => void): Command {
  const { io } = cli;
  const paint = paintFor(io.stdout, io.env);
  const program = new Command('understudy')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: onUsageText,
      getOutHelpWidth: () => io.stdout.columns ?? DEFAULT_COLUMNS,
      getErrHelpWidth: () => DEFAULT_COLUMNS,
      getOutHasColors: () => paint('bold', '') !== '',
    })
    .configureHelp({ styleTitle: (title) => paint('bold', title), subcommandTerm })
    .description('Backup for virtual machines: every state kept, any state booted at once.')
    .version(programVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'explain a command')
    .addHelpCommand(helpCommand())
    .option('--json', 'print one JSON document instead of text')
    .option('--state <dir>', 'state directory')
    .addHelpText('after', `\n${overview(stateDirectory(undefined, io))}`);
  addServerOptions(program, { isHidden: false });
  program.commandsGroup('Protect:');
  addInit(program, cli);
  addHypervisor(program, cli);
  addMachine(program, cli);
  addBackup(program, cli);
  addProtect(program, cli);
  addPolicy(program, cli);
  program.commandsGroup('Look:');
  addPoints(program, cli);
  addStatus(program, cli);
  addSchedule(program, cli);
  addJournal(program, cli);
  program.commandsGroup('Recover:');
  addBoot(program, cli);
  addExport(program, cli);
  addMigrate(program, cli);
  addRestore(program, cli);
  addStandby(program, cli);
  program.commandsGroup('Maintain:');
  addCheck(program, cli);
  addDelete(program, cli);
  addRetention(program, cli);
  addGuards(program, cli);
  addRuns(program, cli);
  addServe(program, cli);
  addSettings(program, cli);
  addConfig(program, cli);
  addAudit(program, cli);
  program.commandsGroup('Let in:');
  addUser(program, cli);
  addToken(program, cli);
  addApproval(program, cli);
  addAccess(program, cli);
  return program;
}

/** `understudy help backup`, which many try first. */
function helpCommand(): Command {
  return new Command('help').argument('[command]').description('explain a command').helpGroup('Maintain:');
}

/** `machine list|show`, `user list|add|set|…`, `points [machine]`. */
function subcommandTerm(command: Command): string {
  const children = command.commands.map((child) => child.name());
  const args = command.registeredArguments.map((argument) =>
    argument.required ? `<${argument.name()}>` : `[${argument.name()}]`,
  );
  const listed = children.join('|').length > MAX_LISTED ? '<command>' : children.join('|');
  return [command.name(), ...(children.length === 0 ? args : [listed])].join(' ');
}

function overview(state: string): string {
  const start = formatExamples([
    ['understudy init', 'create the repository; prints its recovery key'],
    ['understudy machine list', 'the machines, and how each disk is protected'],
    ['understudy backup web', 'take a recovery point of the machine `web`'],
    ['understudy points', 'the recovery points that exist'],
    ['understudy boot web@latest', 'start it again beside the original, at once'],
  ]).replace('Examples:', 'Start here:');
  return `${start}\n\nState directory: ${state}\n(--state or UNDERSTUDY_STATE choose another).\n\`understudy COMMAND --help\` explains a command, with examples.`;
}
