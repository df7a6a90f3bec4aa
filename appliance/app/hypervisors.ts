// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Entry } from '../config/collection.ts';
import type { Configuration } from '../config/configuration.ts';
import { type HypervisorRecord, isHypervisorName } from '../config/hypervisor-record.ts';
import { makeDirectoryDurably, writeDurably } from '../core/durable-file.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import { isLocal, parseEndpoint } from '../hypervisor/libvirt/endpoint.ts';
import { findDomain } from '../protect/protect-service.ts';

/** One hypervisor that operations may mean. */
export interface KnownHypervisor {
  /** Null for the default connection, where none was configured. */
  readonly name: string | null;
  /** libvirt's URI, with where keys and certificates lie, and without passwords. */
  readonly uri: string;
}

export interface HypervisorOptions {
  readonly configuration: Configuration;
  /** The libvirt URI where no hypervisor is configured. */
  readonly defaultUri: string;
  /** For files that exist while a connection is opened. */
  readonly runtimePath: string;
  /** For tests. */
  readonly open?: (uri: string) => Promise<LibvirtConnection>;
}

/** libvirt's INI files take no line breaks. */
const CONTROL = /\p{Cc}/u;

/** Which libvirt an operation means, and how to get in there. */
export class Hypervisors {
  readonly #options: HypervisorOptions;

  constructor(options: HypervisorOptions) {
    this.#options = options;
  }

  /** The configured ones by name, or the default connection when there are none. */
  all(): readonly KnownHypervisor[] {
    const configured = this.#options.configuration.hypervisors.list();
    if (configured.length === 0) return [{ name: null, uri: this.#options.defaultUri }];
    return configured.map((entry) => ({ name: entry.id, uri: uriOf(entry.value) }));
  }

  /** Those that `connect` means: one by name or URI, or all. @throws ApplianceError NOT_FOUND */
  meant(connect: string | undefined): readonly KnownHypervisor[] {
    return connect === undefined ? this.all() : [this.named(connect)];
  }

  /** By name or URI. @throws ApplianceError NOT_FOUND */
  named(connect: string): KnownHypervisor {
    if (!isHypervisorName(connect))
      return this.all().find(({ uri }) => uri === connect) ?? { name: null, uri: connect };
    return { name: connect, uri: uriOf(this.#options.configuration.hypervisors.get(connect).value) };
  }

  /** The name of the hypervisor that is reached by a URI, or the URI. */
  labelOf(uri: string): string {
    return this.all().find((known) => known.uri === uri)?.name ?? uri;
  }

  /**
   * The URI that `connect` means. Without one: the only hypervisor; of several the first on this host, or the default
   * connection: that is where something is started. @throws ApplianceError NOT_FOUND
   */
  uri(connect: string | undefined): string {
    const [first, ...others] = this.meant(connect);
    if (first !== undefined && others.length === 0) return first.uri;
    return this.all().find(({ uri }) => isLocal(uri))?.uri ?? this.#options.defaultUri;
  }

  /**
   * The URI of the hypervisor that has the machine (what is reached over NBD is on none); a hypervisor that cannot be reached counts only when no other has it.
   * @throws ApplianceError DOMAIN_NOT_FOUND, POINT_AMBIGUOUS when several have it, NOT_FOUND
   */
  async uriWith(
    machine: string,
    connect: string | undefined,
    connection: (uri: string) => Promise<LibvirtConnection>,
  ): Promise<string> {
    const candidates = this.meant(connect);
    const [only] = candidates;
    if (only !== undefined && candidates.length === 1) return only.uri;
    if (machine.includes('://')) return this.uri(undefined);
    const looked = await Promise.allSettled(
      candidates.map(async ({ uri }) => {
        await findDomain(await connection(uri), machine);
        return uri;
      }),
    );
    const found = looked.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    if (found.length > 1) {
      throw new ApplianceError(
        'POINT_AMBIGUOUS',
        `${machine} is on ${found.map((uri) => this.labelOf(uri)).join(', ')}`,
        {
          hint: 'Add --connect NAME.',
        },
      );
    }
    if (found[0] !== undefined) return found[0];
    const failures = looked.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    throw failures.find((error) => !hasCode(error, 'DOMAIN_NOT_FOUND')) ?? failures[0];
  }

  /** Opens a connection to a URI of `all`, `named` or `uri`, with the password that belongs to it. Errors as `LibvirtConnection.open`. */
  async open(uri: string): Promise<LibvirtConnection> {
    const open = this.#options.open ?? ((target: string) => LibvirtConnection.open(target));
    const entry = this.#options.configuration.hypervisors.list().find(({ value }) => uriOf(value) === uri);
    if (entry?.value.password === undefined) return open(uri);
    const { runtimePath } = this.#options;
    const path = join(runtimePath, `login-${randomBytes(8).toString('hex')}`);
    await makeDirectoryDurably(runtimePath);
    try {
      await writeDurably(path, loginFile(entry.value.username ?? '', this.#password(entry)), { mode: 0o600 });
      return await open(withParameters(uri, { authfile: path }));
    } finally {
      await rm(path, { force: true });
    }
  }

  #password({ id, value }: Entry<HypervisorRecord>): string {
    if (value.password === undefined) return '';
    return this.#options.configuration.secrets.open(passwordPlace(id), value.password);
  }
}

/** Where the password of a hypervisor belongs. */
export function passwordPlace(name: string): {
  readonly collection: string;
  readonly id: string;
  readonly field: string;
} {
  return { collection: 'hypervisors', id: name, field: 'password' };
}

/** @throws ApplianceError BAD_ARGUMENT for a URI that libvirt would not take, and for what its transport does not use */
export function checkHypervisorRecord(record: HypervisorRecord): void {
  const endpoint = parseEndpoint(record.uri);
  const refuse = (what: string): never => {
    throw new ApplianceError('BAD_ARGUMENT', `${record.uri} ${what}`);
  };
  if (record.sshKeyFile !== undefined && endpoint.kind !== 'ssh') refuse('does not use ssh, and takes no key for it');
  if (record.tlsDirectory !== undefined && endpoint.kind !== 'tls')
    refuse('does not use TLS, and takes no certificates');
  if ((record.username === undefined) !== (record.password === undefined))
    refuse('needs user name and password, or neither');
  if (record.username !== undefined && CONTROL.test(record.username)) refuse('has a user name with a line break');
  // A URI can carry a command that is run here in place of ssh, and a password in clear.
  const parameters = new URLSearchParams(record.uri.split('?')[1] ?? '');
  for (const name of ['command', 'authfile', 'netcat', 'proxy']) {
    if (parameters.has(name)) refuse(`has the parameter ${name}, which a configured hypervisor may not have`);
  }
  if (/:\/\/[^/@]*:[^/@]*@/.test(record.uri)) refuse('has a password in it; give it by itself');
}

/** libvirt's URI with where the credentials lie; the same for the same record, so that other records can hold it. */
export function uriOf({ uri, sshKeyFile, tlsDirectory }: HypervisorRecord): string {
  return withParameters(uri, {
    ...(sshKeyFile === undefined ? {} : { keyfile: sshKeyFile }),
    ...(tlsDirectory === undefined ? {} : { pkipath: tlsDirectory }),
  });
}

function withParameters(uri: string, parameters: Readonly<Record<string, string>>): string {
  const added = Object.entries(parameters).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  if (added.length === 0) return uri;
  return `${uri}${uri.includes('?') ? '&' : '?'}${added.join('&')}`;
}

/** The file with which libvirt logs in. (libvirt: auth.html, "Client configuration") */
function loginFile(username: string, password: string): string {
  return `[credentials-own]\nauthname=${username}\npassword=${password}\n\n[auth-libvirt-default]\ncredentials=own\n`;
}

/** @throws ApplianceError BAD_ARGUMENT */
export function checkPassword(password: string): void {
  if (CONTROL.test(password)) throw new ApplianceError('BAD_ARGUMENT', 'a password has no line breaks');
}
