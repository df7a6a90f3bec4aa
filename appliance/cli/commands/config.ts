// SPDX-License-Identifier: Apache-2.0

import { readFile } from 'node:fs/promises';
import { text as textOf } from 'node:stream/consumers';
import type { Command } from 'commander';
import type { ConfigImportReport } from '../../api/schemas/configuration.ts';
import { writeDurably } from '../../core/durable-file.ts';
import { storageError } from '../../core/file-system.ts';
import { confirmByName } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { readSecretFile } from '../secret-file.ts';

interface ImportOptions {
  readonly passphraseFile?: string;
  readonly dryRun?: boolean;
  readonly yes?: boolean;
}

export function addConfig(program: Command, cli: CliRun): void {
  const config = defineGroup(program, 'config', 'policies, hypervisors and settings as a file');
  defineCommand<Pick<ImportOptions, 'passphraseFile'>>(config, cli, {
    usage: 'export <file>',
    summary: 'write the configuration to a file',
    description:
      'Writes policies, hypervisors and settings to a new file, - for standard output. Passwords among them are sealed under a ' +
      'passphrase, or left out without one. Users and tokens are not in it.',
    examples: [
      ['understudy config export appliance.json --passphrase-file secret', 'with passwords'],
      ['understudy config export -', 'to look at, without'],
    ],
    options: addPassphrase,
    action: exportTo,
  });
  defineCommand<ImportOptions>(config, cli, {
    usage: 'import <file>',
    summary: 'take the configuration of a file',
    description:
      'Makes policies, hypervisors and settings those of the file: what it does not have of them is removed. Everything in it is ' +
      'checked before anything is changed.',
    examples: [
      ['understudy config import appliance.json --dry-run', 'only say what would change'],
      ['understudy config import appliance.json --passphrase-file secret --yes', 'without being asked'],
    ],
    options: (command) =>
      addPassphrase(command).option('--dry-run', 'only say what would change').option('--yes', 'do not ask'),
    action: importFrom,
  });
}

function addPassphrase(command: Command): Command {
  return command.option('--passphrase-file <file>', 'the passphrase: the first line of this file');
}

async function passphraseOf(run: CommandRun, file: string | undefined): Promise<string | undefined> {
  return file === undefined ? undefined : readSecretFile(run, file);
}

async function exportTo(
  run: CommandRun,
  [file = '']: readonly string[],
  options: Pick<ImportOptions, 'passphraseFile'>,
): Promise<Outcome> {
  const passphrase = await passphraseOf(run, options.passphraseFile);
  const { document, documents, hasSecrets } = await run.call('configExport', defined({ passphrase }));
  if (file === '-') return { value: JSON.parse(document), text: document };
  await writeDurably(run.path(file), document, { mode: 0o600, ifAbsent: true });
  const counts = documents.map(({ collection, count }) => `${count} ${plain(collection)}`).join(', ');
  const secrets = hasSecrets ? 'Passwords in it need the passphrase.' : 'Passwords were left out.';
  return { value: { file: run.path(file), documents, hasSecrets }, text: `${plain(file)}: ${counts}. ${secrets}\n` };
}

async function importFrom(run: CommandRun, [file = '']: readonly string[], options: ImportOptions): Promise<Outcome> {
  const document = file === '-' ? await textOf(run.io.stdin) : await readDocument(run.path(file));
  const passphrase = await passphraseOf(run, options.passphraseFile);
  const given = { document, ...defined({ passphrase }) };
  if (options.dryRun === true) return outcomeOf(await run.call('configImport', { ...given, dryRun: true }));
  if (options.yes !== true) {
    const plan = await run.call('configImport', { ...given, dryRun: true });
    const consequence = `Configuration that ${file} does not have is removed:\n${differences(plan)}`;
    await confirmByName(run, { name: 'import', consequence, asked: 'the word' });
  }
  return outcomeOf(await run.call('configImport', given));
}

function outcomeOf(report: ConfigImportReport): Outcome {
  const head = report.applied ? 'The configuration was taken.' : 'Nothing was changed; this would be:';
  return { value: report, text: `${head}\n${differences(report)}` };
}

function differences(report: ConfigImportReport): string {
  const lines = report.differences.flatMap(({ collection, added, changed, removed }) => [
    ...added.map((id) => `  + ${plain(collection)} ${plain(id)}\n`),
    ...changed.map((id) => `  ~ ${plain(collection)} ${plain(id)}\n`),
    ...removed.map((id) => `  - ${plain(collection)} ${plain(id)}\n`),
  ]);
  return lines.length === 0 ? '  no difference\n' : lines.join('');
}

async function readDocument(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw storageError(error, 'read', path);
  }
}
