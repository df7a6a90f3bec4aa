// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import type { HypervisorReport, HypervisorTestReport } from '../../api/schemas/hypervisors.ts';
import { confirmByName } from '../ask.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand, defineGroup } from '../define-command.ts';
import { plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import { readSecretFile } from '../secret-file.ts';
import { type Column, renderFields, renderTable } from '../table.ts';

interface CredentialOptions {
  readonly sshKey?: string;
  readonly tlsDir?: string;
  readonly user?: string;
  readonly passwordFile?: string;
}

interface UpdateOptions extends CredentialOptions {
  readonly uri?: string;
  readonly withoutCredentials?: boolean;
}

export function addHypervisor(program: Command, cli: CliRun): void {
  const hypervisor = defineGroup(program, 'hypervisor', 'the hypervisors that are protected, by name');
  defineCommand<CredentialOptions>(hypervisor, cli, {
    usage: 'add <name> <uri>',
    summary: 'tell of a hypervisor',
    description:
      'Tells the appliance of a hypervisor, under a name that --connect takes from then on. As soon as there is one, commands ' +
      'mean all that were told of, not the default connection. A password is kept sealed and never shown.',
    examples: [
      ['understudy hypervisor add rack1 qemu+ssh://rack1/system --ssh-key key', 'over ssh'],
      ['understudy hypervisor add rack2 qemu+tls://rack2/system --tls-dir pki', 'over TLS'],
      ['understudy hypervisor add here qemu:///system', 'this host'],
    ],
    options: addCredentials,
    action: add,
  });
  defineCommand<UpdateOptions>(hypervisor, cli, {
    usage: 'update <name>',
    summary: 'change where it is, or how to get in',
    description: 'Changes what is given, and leaves the rest.',
    examples: [['understudy hypervisor update rack1 --uri qemu+ssh://root@rack1.lan/system', 'another address']],
    options: (command) =>
      addCredentials(command)
        .option('--uri <uri>', 'libvirt URI')
        .option('--without-credentials', 'forget key file, certificates, user name and password'),
    action: update,
  });
  defineCommand(hypervisor, cli, {
    usage: 'list',
    summary: 'list them',
    description: 'Lists the hypervisors that the appliance was told of.',
    examples: [['understudy hypervisor list', 'all of them']],
    action: list,
  });
  defineCommand(hypervisor, cli, {
    usage: 'show <name>',
    summary: 'show one',
    description: 'Shows one hypervisor. Passwords are not shown.',
    examples: [['understudy hypervisor show rack1', 'where it is, and how to get in']],
    action: async (run, [name = '']) => shown(await run.call('hypervisorShow', { name }), run),
  });
  defineCommand(hypervisor, cli, {
    usage: 'test <name>',
    summary: 'try a connection, and say what is missing',
    description: 'Looks at address, key files and certificates, opens a connection, and says what is missing.',
    examples: [['understudy hypervisor test rack1', 'exit code 6 when something is missing']],
    action: test,
  });
  defineCommand<{ readonly yes?: boolean }>(hypervisor, cli, {
    usage: 'remove <name>',
    summary: 'forget one',
    description:
      'Forgets a hypervisor and its credentials. Machines on it are not backed up any more; their points stay.',
    examples: [['understudy hypervisor remove rack1 --yes', 'without being asked']],
    options: (command) => command.option('--yes', 'do not ask'),
    action: remove,
  });
}

function addCredentials(command: Command): Command {
  return command
    .option('--ssh-key <file>', 'private key for qemu+ssh://, on the appliance')
    .option('--tls-dir <dir>', 'cacert.pem, clientcert.pem and clientkey.pem for qemu+tls://, on the appliance')
    .option('--user <name>', "user name for libvirt's own login (SASL)")
    .option('--password-file <file>', 'its password: the first line of this file, - for standard input');
}

async function credentialsOf(run: CommandRun, options: CredentialOptions): Promise<ReturnType<typeof defined>> {
  const { sshKey, tlsDir, user, passwordFile } = options;
  return defined({
    sshKeyFile: sshKey === undefined ? undefined : run.path(sshKey),
    tlsDirectory: tlsDir === undefined ? undefined : run.path(tlsDir),
    username: user,
    password: passwordFile === undefined ? undefined : await readSecretFile(run, passwordFile),
  });
}

async function add(
  run: CommandRun,
  [name = '', uri = '']: readonly string[],
  options: CredentialOptions,
): Promise<Outcome> {
  const made = await run.call('hypervisorAdd', { name, uri, ...(await credentialsOf(run, options)) });
  const text = `${plain(made.name)} is known from now on. \`understudy hypervisor test ${plain(made.name)}\` tries it.\n`;
  return { value: made, text };
}

async function update(run: CommandRun, [name = '']: readonly string[], options: UpdateOptions): Promise<Outcome> {
  const { uri, withoutCredentials } = options;
  const given = { ...defined({ uri, withoutCredentials }), ...(await credentialsOf(run, options)) };
  return shown(await run.call('hypervisorUpdate', { name, ...given }), run);
}

async function list(run: CommandRun): Promise<Outcome> {
  const known = await run.call('hypervisors', {});
  if (known.length === 0) {
    return {
      value: known,
      text: 'None. `understudy hypervisor add NAME URI` tells of one; until then commands use the default connection.\n',
    };
  }
  const columns: Column<HypervisorReport>[] = [
    { title: 'NAME', cell: ({ name }) => plain(name) },
    { title: 'URI', cell: ({ uri }) => plain(uri) },
    { title: 'CREDENTIALS', cell: (one) => credentials(one) },
  ];
  return { value: known, text: renderTable(known, columns, run.paint) };
}

async function test(run: CommandRun, [name = '']: readonly string[]): Promise<Outcome> {
  const report = await run.call('hypervisorTest', { name });
  return { value: report, text: renderTest(report, run), ...(report.isOk ? {} : { exitCode: 6 }) };
}

async function remove(
  run: CommandRun,
  [name = '']: readonly string[],
  { yes }: { readonly yes?: boolean },
): Promise<Outcome> {
  if (yes !== true) {
    const consequence = `The hypervisor ${name} and its credentials are forgotten; its machines are not backed up any more.`;
    await confirmByName(run, { name, consequence, asked: "the hypervisor's name" });
  }
  const gone = await run.call('hypervisorRemove', { name });
  return { value: gone, text: `${plain(gone.name)} is forgotten.\n` };
}

function shown(one: HypervisorReport, { paint }: CommandRun): Outcome {
  const fields: [string, string][] = [
    ['uri', plain(one.uri)],
    ['credentials', credentials(one)],
  ];
  return { value: one, text: `${paint('bold', plain(one.name))}\n${renderFields(fields, paint)}` };
}

function credentials({ sshKeyFile, tlsDirectory, username, hasPassword }: HypervisorReport): string {
  const all = [
    ...(sshKeyFile === null ? [] : [`ssh key ${plain(sshKeyFile)}`]),
    ...(tlsDirectory === null ? [] : [`certificates in ${plain(tlsDirectory)}`]),
    ...(username === null ? [] : [`user ${plain(username)}${hasPassword ? ' with password' : ''}`]),
  ];
  return all.length === 0 ? '–' : all.join(', ');
}

function renderTest(report: HypervisorTestReport, { paint }: CommandRun): string {
  const lines = report.steps.map(({ what, isOk, detail, hint }) => {
    const mark = isOk ? paint('green', 'ok') : paint('red', 'missing');
    return `  ${mark}  ${plain(what)}: ${plain(detail)}${hint === '' ? '' : `\n      ${plain(hint)}`}\n`;
  });
  return `${plain(report.name)} (${plain(report.uri)})\n${lines.join('')}`;
}
