// SPDX-License-Identifier: Apache-2.0
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { ApplianceError } from '../core/errors.ts';
import type { CommandRun } from './command-run.ts';
import { plain } from './format.ts';

/**
 * Goes on only when the person types the machine's name (or another word, which `asked` describes).
 *
 * @throws CONFIRMATION_NEEDED when nobody can be asked, or something else was typed; ABORTED
 */
export async function confirmByName(
  run: CommandRun,
  question: { readonly name: string; readonly consequence: string; readonly asked?: string },
): Promise<void> {
  const { name, consequence, asked = "the machine's name" } = question;
  if (!run.canAsk()) throw new ApplianceError('CONFIRMATION_NEEDED', consequence);
  run.writeError(`${plain(consequence)}\n`);
  const answer = await askLine(run, `Type ${asked} (${plain(name)}) to go on: `);
  if (answer !== name) {
    throw new ApplianceError('CONFIRMATION_NEEDED', `that is not ${asked}; nothing was changed`);
  }
}

/** One line from the terminal. With `isSecret` it is not shown. The caller has asked `canAsk`. @throws ABORTED */
export async function askLine(run: CommandRun, prompt: string, isSecret = false): Promise<string> {
  const { stdin, stderr } = run.io;
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: stdin, output: isSecret ? silent : stderr, terminal: true, historySize: 0 });
  const answer = Promise.withResolvers<string>();
  const refuse = (): void => answer.reject(new ApplianceError('ABORTED', 'interrupted; nothing was changed'));
  try {
    if (isSecret) stderr.write(prompt);
    else {
      lines.setPrompt(prompt);
      lines.prompt();
    }
    lines.once('line', answer.resolve);
    // The end of input, Ctrl-D and Ctrl-C: the terminal is in raw mode, so no signal arrives.
    lines.once('close', refuse);
    lines.once('SIGINT', refuse);
    run.signal.addEventListener('abort', refuse, { once: true });
    return (await answer.promise).trim();
  } finally {
    run.signal.removeEventListener('abort', refuse);
    lines.close();
    if (isSecret) stderr.write('\n');
  }
}
