// SPDX-License-Identifier: Apache-2.0
import { type Command, CommanderError } from 'commander';
import { asApplianceError, encodeError } from '../api/wire-error.ts';
import { ERROR_TABLE, EXIT_CODES } from '../core/error-codes.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { CliDependencies } from './dependencies.ts';
import { plain } from './format.ts';
import type { CliIo } from './io.ts';
import { buildProgram } from './program.ts';
import { paintFor } from './style.ts';

/** One command line, run. `result.exitCode` is what the process should end with. */
export interface CliRun {
  readonly io: CliIo;
  readonly dependencies: CliDependencies;
  /** Aborted by the first signal; a second one ends the process. */
  readonly signal: AbortSignal;
  readonly result: { exitCode: number };
}

/**
 * Runs one command line (without program and script) and returns the exit code of `EXIT_CODES`. Everything is written
 * before it settles. It does not throw: an error is printed, as JSON on standard output with `--json`, otherwise as
 * `error CODE: message` and `hint: …` on standard error.
 */
export async function runCli(argv: readonly string[], io: CliIo, dependencies: CliDependencies): Promise<number> {
  const interruption = new AbortController();
  using _signals = io.onSignal((signal) => {
    if (interruption.signal.aborted) io.exit(EXIT_CODES.interrupted);
    interruption.abort(new ApplianceError('ABORTED', `interrupted by ${signal}`));
    if (io.stderr.isTTY === true) io.stderr.write('\nstopping at a safe place (once more to stop at once)\n');
  });
  const run: CliRun = { io, dependencies, signal: interruption.signal, result: { exitCode: EXIT_CODES.ok } };
  const usage = { text: '' };
  const program = buildProgram(run, (text) => {
    usage.text += text;
  });
  try {
    if (argv.length === 0) program.outputHelp();
    else await program.parseAsync(argv[0] === 'help' ? [...argv.slice(1), '--help'] : argv, { from: 'user' });
    return run.result.exitCode;
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return EXIT_CODES.ok;
    const error = thrown instanceof CommanderError ? usageError(thrown, usage.text) : thrown;
    const shown = withHelpHint(error, program, argv);
    return printError(shown, { io, isJson: wantsJson(argv), signal: interruption.signal });
  }
}

function printError(
  thrown: unknown,
  { io, isJson, signal }: { readonly io: CliIo; readonly isJson: boolean; readonly signal: AbortSignal },
): number {
  const error = asApplianceError(thrown, signal);
  if (isJson) io.stdout.write(`${JSON.stringify({ error: encodeError(error) }, null, 2)}\n`);
  else {
    const paint = paintFor(io.stderr, io.env);
    const lines = error.message.split('\n').map(plain).join('\n');
    io.stderr.write(`${paint(['bold', 'red'], `error ${error.code}:`)} ${lines}\n`);
    if (error.hint !== '') io.stderr.write(`${paint('cyan', 'hint:')} ${plain(error.hint)}\n`);
  }
  if (error.code === 'INTERNAL' || io.env['UNDERSTUDY_DEBUG'] === '1') io.stderr.write(`${describeStack(error)}\n`);
  return error.exitCode;
}

/** What commander found wrong, as one of our errors. */
function usageError(error: CommanderError, usageText: string): ApplianceError {
  if (error.code === 'commander.help') {
    const names = [...usageText.matchAll(/^ {2}([a-z]+) /gm)]
      .map((match) => match[1])
      .filter((name) => name !== 'help');
    return new ApplianceError('BAD_ARGUMENT', `a command is missing; one of: ${names.join(', ')}`);
  }
  const [message = '', ...rest] = error.message.replace(/^error: /, '').split('\n');
  const suggestion = /\(Did you mean (.*)\?\)/.exec(rest.join('\n'))?.[1];
  return new ApplianceError('BAD_ARGUMENT', message, {
    ...(suggestion === undefined ? {} : { hint: `Did you mean ${suggestion}?` }),
    details: { reason: error.code },
  });
}

/** A wrong argument, with the help to look at in place of the general hint. */
function withHelpHint(error: unknown, program: Command, argv: readonly string[]): unknown {
  if (!hasCode(error, 'BAD_ARGUMENT') || error.hint !== ERROR_TABLE.BAD_ARGUMENT.hint) return error;
  let command = program;
  const path = [program.name()];
  for (const word of argv) {
    const child: Command | undefined = command.commands.find((one) => one.name() === word);
    if (child === undefined) continue;
    command = child;
    path.push(word);
  }
  const { message, details, cause } = error;
  const hint = `\`${path.join(' ')} --help\` shows what it takes.`;
  return new ApplianceError('BAD_ARGUMENT', message, { details, cause, hint });
}

/** Also for a command line that cannot be parsed. */
function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  return argv.slice(0, end < 0 ? argv.length : end).includes('--json');
}

function describeStack(error: Error): string {
  const own = error.stack ?? error.message;
  return error.cause instanceof Error ? `${own}\ncaused by ${describeStack(error.cause)}` : own;
}
