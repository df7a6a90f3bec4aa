// SPDX-License-Identifier: Apache-2.0
import { type Command, Option } from 'commander';
import { ApplianceError } from '../../core/errors.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { plain } from '../format.ts';
import type { CliRun } from '../run-cli.ts';
import type { ListenerReport, NetworkWishes } from '../service.ts';

interface ServeOptions {
  readonly stop?: boolean;
  readonly listen?: string;
  readonly http?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly log?: string;
  readonly logLevel: string;
}

export function addServe(program: Command, cli: CliRun): void {
  defineCommand<ServeOptions>(program, cli, {
    usage: 'serve',
    summary: 'own the state directory, and serve commands and exports',
    description:
      'Owns the state directory, serves the disks of booted machines, and takes commands over the unix socket ' +
      '`control.sock` in it, so that several can work at the same time. Runs in the foreground until SIGTERM or SIGINT: ' +
      'then it aborts what runs at a safe place and ends; a second signal ends it at once. Its log goes to standard ' +
      'error, as JSON lines. With --stop the service that runs is ended instead, by whomever it was started; booted machines ' +
      'then wait for their disks until it runs again.',
    examples: [
      ['understudy serve', 'in the foreground; Ctrl-C ends it'],
      [
        'understudy serve --listen 0.0.0.0:8443',
        'with HTTPS for other machines; prints the fingerprint of its certificate',
      ],
      ['understudy serve --log /var/log/understudy.log', 'with its log in a file'],
      ['understudy serve --stop', 'ends the one that runs'],
    ],
    options: (command) =>
      command
        .option('--stop', 'end the service that runs, as SIGTERM does, and wait for its end')
        .option('--listen <host:port>', 'HTTPS for users and other machines, 0.0.0.0:8443 for example (default: none)')
        .option('--http <host:port>', 'HTTP without encryption, on an address of this machine only')
        .option('--tls-cert <file>', 'certificate with its chain for --listen (default: a self-signed one)')
        .option('--tls-key <file>', 'key of --tls-cert')
        .option('--log <file>', 'append the log to this file instead of standard error')
        .addOption(
          new Option('--log-level <level>', 'what to log').choices(['debug', 'info', 'warn', 'error']).default('info'),
        ),
    connects: true,
    action: serve,
  });
}

async function serve(run: CommandRun, _args: readonly string[], options: ServeOptions): Promise<Outcome | undefined> {
  run.refuseServer();
  if (options.stop === true) return stop(run);
  // The HTTP server and the log are loaded by the one command that needs them.
  const { runService } = await import('../service.ts');
  const { stateDirectory, connect, signal, io, dependencies } = run;
  await runService({
    ...defined({ connect, logFile: options.log === undefined ? undefined : run.path(options.log) }),
    network: networkOf(run, options),
    stateDirectory,
    signal,
    io,
    dependencies,
    logLevel: options.logLevel,
    onReady: (service) => {
      const ready = `serving ${plain(service.state)} at ${plain(service.socket)} (process ${service.pid})\n`;
      const listening = (service.listeners ?? []).map(describeListener).join('');
      run.emit({ value: service, text: `${ready}${listening}${describeSetup(service.setup)}` });
    },
  });
}

/** Only until there is an administrator. */
function describeSetup(link: string | undefined): string {
  return link === undefined ? '' : `First administrator (this link works once, within 24 hours):\n  ${plain(link)}\n`;
}

function describeListener({ url, fingerprint }: ListenerReport): string {
  return fingerprint === null ? `${plain(url)}\n` : `${plain(url)} (certificate SHA-256 ${fingerprint})\n`;
}

/** What is asked for, from options or environment. @throws BAD_ARGUMENT */
function networkOf(run: CommandRun, { listen, http, tlsCert, tlsKey }: ServeOptions): NetworkWishes {
  const { env } = run.io;
  const https = listen ?? (env['UNDERSTUDY_LISTEN'] === '' ? undefined : env['UNDERSTUDY_LISTEN']);
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    throw new ApplianceError('BAD_ARGUMENT', '--tls-cert and --tls-key belong together');
  }
  if (tlsCert !== undefined && https === undefined)
    throw new ApplianceError('BAD_ARGUMENT', '--tls-cert needs --listen');
  const files =
    tlsCert === undefined || tlsKey === undefined
      ? undefined
      : { certificate: run.path(tlsCert), key: run.path(tlsKey) };
  return { https, http, files };
}

async function stop(run: CommandRun): Promise<Outcome> {
  const { stopService } = await import('../stop-service.ts');
  const { stateDirectory, signal } = run;
  const pid = await stopService({ stateDirectory, signal, clock: run.io.clock });
  const text =
    pid === undefined
      ? `No service runs on ${plain(stateDirectory)}.\n`
      : `Ended the service on ${plain(stateDirectory)} (process ${pid}).\n`;
  return { value: { stopped: pid !== undefined, pid: pid ?? null, state: stateDirectory }, text };
}
