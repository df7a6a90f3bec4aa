// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { storageError } from '../../core/file-system.ts';
import { askLine } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import type { InitReport } from '../dependencies.ts';
import { formatTime, plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { indented, renderFields } from '../table.ts';

interface InitOptions {
  readonly repository?: string;
  /** False with `--no-encryption`. */
  readonly encryption: boolean;
  readonly from?: string;
  readonly recoveryKeyFile?: string;
}

export function addInit(program: Command, cli: CliRun): void {
  defineCommand<InitOptions>(program, cli, {
    usage: 'init',
    summary: 'create the repository, or take over an existing one',
    description:
      'Creates the state directory with a new repository in it (or in --repository DIR), encrypted unless --no-encryption ' +
      'is given. The recovery key is printed once: without it and without the state directory nobody can read the ' +
      'repository any more.\n\nWith --from DIR an existing repository is taken over, for example on a new machine. Its ' +
      'recovery key is read from --recovery-key-file, from UNDERSTUDY_RECOVERY_KEY, or asked for on a terminal; run ' +
      '`understudy catalog rebuild` after it.',
    examples: [
      ['understudy init', 'a repository in the state directory'],
      ['understudy init --repository /mnt/backup', 'the repository on another file system'],
      ['understudy init --from /mnt/backup', 'take over the repository that is there'],
    ],
    options: (command) =>
      command
        .option('--repository <dir>', 'where the repository lies (default: in the state directory)')
        .option('--no-encryption', 'store without encryption; there is no key then')
        .option('--from <dir>', 'take over the existing repository in this directory')
        .option('--recovery-key-file <file>', 'file that holds the recovery key for --from'),
    action: init,
  });
}

async function init(run: CommandRun, _args: readonly string[], options: InitOptions): Promise<Outcome> {
  run.refuseServer();
  const { from, repository } = options;
  if (from !== undefined && (repository !== undefined || !options.encryption)) {
    const message = '--from takes the repository as it is, without --repository and --no-encryption';
    throw new ApplianceError('BAD_ARGUMENT', message);
  }
  if (from === undefined && options.recoveryKeyFile !== undefined) {
    throw new ApplianceError('BAD_ARGUMENT', '--recovery-key-file belongs to --from; a new repository gets a new key');
  }
  const report = from === undefined ? await createRepository(run, options) : await takeOver(run, from, options);
  const value = { ...report, state: run.stateDirectory };
  return { value, text: from === undefined ? renderNew(run, report) : renderTakenOver(run, report) };
}

async function createRepository(run: CommandRun, { repository, encryption }: InitOptions): Promise<InitReport> {
  return run.dependencies.initialize(
    defined({
      stateDirectory: run.stateDirectory,
      repository: repository === undefined ? undefined : run.path(repository),
      encryption,
    }),
  );
}

/** The key is asked for only when the repository turns out to need one. */
async function takeOver(run: CommandRun, from: string, options: InitOptions): Promise<InitReport> {
  const attach = (recoveryKey: string | undefined): Promise<InitReport> =>
    run.dependencies.initialize(
      defined({ stateDirectory: run.stateDirectory, encryption: true, from: run.path(from), recoveryKey }),
    );
  const given = givenKey(run, options);
  try {
    return await attach(given);
  } catch (error) {
    if (given !== undefined || !hasCode(error, 'REPOSITORY_KEY') || !run.canAsk()) throw error;
  }
  return attach(await askLine(run, 'Recovery key (not shown): ', true));
}

function givenKey(run: CommandRun, { recoveryKeyFile }: InitOptions): string | undefined {
  if (recoveryKeyFile === undefined) {
    const fromEnvironment = run.io.env['UNDERSTUDY_RECOVERY_KEY']?.trim();
    return fromEnvironment === '' ? undefined : fromEnvironment;
  }
  const path = run.path(recoveryKeyFile);
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw storageError(error, 'read', path);
  }
}

function renderNew(run: CommandRun, report: InitReport): string {
  const { paint } = run;
  const facts = renderFields(
    [
      ['repository', plain(report.repository)],
      ['id', report.repositoryId],
      ['state', plain(run.stateDirectory)],
      ['encryption', report.recoveryKey === null ? 'none' : 'AES-256-GCM'],
    ],
    paint,
  );
  const head = `${paint('bold', 'The repository is ready.')}\n${facts}`;
  if (report.recoveryKey === null) {
    return `${head}\nWhoever can read its files can read the backups. Next: \`understudy machine list\`.\n`;
  }
  return `${head}
${paint('bold', 'Recovery key')}, shown this once and stored nowhere:

    ${paint(['bold', 'green'], report.recoveryKey)}

Keep it off this machine, on paper or in a password safe. When this machine is lost,
this key opens the repository, and nothing else does:

    understudy init --from ${plain(report.repository)}

Next: \`understudy machine list\`, then \`understudy backup NAME\`.
`;
}

function renderTakenOver(run: CommandRun, report: InitReport): string {
  const facts = indented(`${plain(report.repository)}\n${report.repositoryId}\n`);
  return `${run.paint('bold', 'The repository was taken over.')}\n${facts}${renderRestored(report)}\nNext: \`understudy catalog rebuild\` lists its recovery points.\n`;
}

/** What came back of the lost appliance. */
function renderRestored({ restored = null }: InitReport): string {
  if (restored === null) return '';
  const documents = Object.entries(restored.documents).map(([name, count]) => `${count} ${plain(name)}`);
  const kept = [...documents, `${restored.records} protected machines and spares`].join(', ');
  const secrets = restored.hasSecrets ? '' : 'Passwords have to be entered again: the repository is not encrypted.\n';
  return `\nBack from ${formatTime(restored.createdAt)}: ${kept}.\n${secrets}`;
}
