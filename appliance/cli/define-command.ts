// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import { CommandRun, type CommonOptions, type Outcome } from './command-run.ts';
import { formatExamples } from './examples.ts';
import { capitalized } from './format.ts';
import type { CliRun } from './run-cli.ts';
import { addServerOptions } from './server-options.ts';

/** A command of `understudy`, in one place: what it takes, what it does, how it is explained. */
export interface CommandDefinition<Options extends object> {
  /** Name and arguments, in commander's notation: `show <point>`. */
  readonly usage: string;
  /** Its group means this one when it is given without another word. */
  readonly isDefault?: boolean;
  /** One line for the overview. */
  readonly summary: string;
  /** What an operator has to know, for its own help; sentences. */
  readonly description: string;
  /** Command lines with what they do. */
  readonly examples: readonly (readonly [line: string, meaning: string])[];
  /** Adds options beyond the common ones. */
  readonly options?: (command: Command) => Command;
  /** The command talks to a hypervisor: it takes `--connect`. */
  readonly connects?: boolean;
  /** Does it. Undefined when it wrote its output itself. */
  readonly action: (run: CommandRun, args: readonly string[], options: Options) => Promise<Outcome | undefined>;
}

export function defineCommand<Options extends object>(
  parent: Command,
  cli: CliRun,
  definition: CommandDefinition<Options>,
): Command {
  const command = parent
    .command(definition.usage, { isDefault: definition.isDefault ?? false })
    .summary(definition.summary)
    .description(definition.description)
    .addHelpText('after', `\n${formatExamples(definition.examples)}`);
  definition.options?.(command);
  if (definition.connects === true) command.option('--connect <uri>', 'libvirt connection, as for `virsh -c`');
  command
    .option('--json', 'print one JSON document instead of text')
    .option('--state <dir>', 'state directory (default: UNDERSTUDY_STATE, or the one that `understudy` shows)');
  addServerOptions(command, { isHidden: true });
  return command.action(async () => {
    const options = command.optsWithGlobals<Options & CommonOptions>();
    const { io, dependencies, signal } = cli;
    await using run = new CommandRun({ io, dependencies, options, signal });
    // Optional arguments that were left out are undefined in `processedArgs`; `args` has only what was given.
    const outcome = await definition.action(run, command.args, options);
    if (outcome === undefined) return;
    run.emit(outcome);
    cli.result.exitCode = outcome.exitCode ?? cli.result.exitCode;
  });
}

/** A word that only groups commands: `machine` of `machine list`. */
export function defineGroup(parent: Command, name: string, summary: string): Command {
  return parent
    .command(name)
    .summary(summary)
    .description(`${capitalized(summary)}.`)
    .helpCommand(false);
}
