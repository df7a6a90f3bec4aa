// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import type { ServerAddress } from '../api/connect-appliance.ts';
import { ApplianceError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { CliIo } from './io.ts';

/** The service of another machine, as every command takes it. */
export interface ServerOptions {
  readonly server?: string;
  readonly token?: string;
  readonly tokenFile?: string;
  readonly fingerprint?: string;
  readonly ca?: string;
}

const FLAGS: readonly (readonly [flags: string, description: string])[] = [
  ['--server <url>', 'the appliance at https://HOST:PORT instead of a state directory'],
  ['--token <token>', 'token for --server; better in UNDERSTUDY_TOKEN or a file'],
  ['--token-file <file>', 'file with the token for --server'],
  ['--fingerprint <sha256>', 'the certificate of --server, as `understudy serve` prints it'],
  ['--ca <file>', 'certificates that are trusted for --server, as PEM'],
];

/** Adds them; they are shown with the whole program, and left out of the help of each command. */
export function addServerOptions(command: Command, { isHidden }: { readonly isHidden: boolean }): void {
  for (const [flags, description] of FLAGS) command.addOption(new Option(flags, description).hideHelp(isHidden));
}

/** The service that is meant, from options and environment; undefined for the state directory. @throws BAD_ARGUMENT, IO_FAILED */
export function serverAddress(
  options: ServerOptions,
  io: CliIo,
  path: (text: string) => string,
): ServerAddress | undefined {
  const { env } = io;
  const url = options.server ?? given(env['UNDERSTUDY_SERVER']);
  if (url === undefined) {
    const useless = (['token', 'tokenFile', 'fingerprint', 'ca'] as const).find((name) => options[name] !== undefined);
    if (useless === undefined) return undefined;
    throw new ApplianceError('BAD_ARGUMENT', '--token, --token-file, --fingerprint and --ca need --server');
  }
  const tokenFile = options.tokenFile ?? given(env['UNDERSTUDY_TOKEN_FILE']);
  const token = options.token ?? (tokenFile === undefined ? given(env['UNDERSTUDY_TOKEN']) : undefined);
  const ca = options.ca ?? given(env['UNDERSTUDY_CA']);
  return {
    url,
    token: token ?? (tokenFile === undefined ? undefined : read(path(tokenFile)).trim()),
    fingerprint: options.fingerprint ?? given(env['UNDERSTUDY_FINGERPRINT']),
    ca: ca === undefined ? undefined : read(path(ca)),
  };
}

function given(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw storageError(error, 'read', path);
  }
}
