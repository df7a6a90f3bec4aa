// SPDX-License-Identifier: Apache-2.0
import { isAbsolute, resolve } from 'node:path';
import { localPrincipal } from '../access/principal.ts';
import type { ApplianceConnection, ServerAddress } from '../api/connect-appliance.ts';
import type {
  Appliance,
  OperationContext,
  OperationName,
  OperationParams,
  OperationResult,
} from '../api/operations.ts';

import { ApplianceError } from '../core/errors.ts';
import { formatNbdUri, parseNbdUri } from '../nbd/uri.ts';
import { defaultUri } from './default-uri.ts';
import type { CliDependencies } from './dependencies.ts';
import { plain } from './format.ts';
import type { CliIo } from './io.ts';
import { ProgressDisplay } from './progress-display.ts';
import { type ServerOptions, serverAddress } from './server-options.ts';
import { stateDirectory } from './state-directory.ts';
import { type Paint, paintFor } from './style.ts';
import { zonedParams } from './zoned-moment.ts';

/** Options that every command has. */
export interface CommonOptions extends ServerOptions {
  readonly json?: boolean;
  readonly state?: string;
  readonly connect?: string;
}

/** What a command ends with: the document of `--json`, and the text for people. */
export interface Outcome {
  readonly value: unknown;
  readonly text: string;
  /** Default 0. */
  readonly exitCode?: number;
}

/** Members that are undefined left out, as optional members want it. */
export type Defined<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined>;
};

export function defined<T extends object>(members: T): Defined<T> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as Defined<T>;
}

export interface CommandRunOptions {
  readonly io: CliIo;
  readonly dependencies: CliDependencies;
  readonly options: CommonOptions;
  readonly signal: AbortSignal;
}

/**
 * One run of one command: its output, its interruption, its way to the appliance. What speaks to the service and checks
 * parameters is loaded when it is needed: help and errors in the command line do without.
 */
export class CommandRun implements AsyncDisposable {
  readonly io: CliIo;
  readonly dependencies: CliDependencies;
  readonly signal: AbortSignal;
  readonly isJson: boolean;
  readonly stateDirectory: string;
  readonly connect: string | undefined;
  /** The service in the network that does it; undefined for the state directory. */
  readonly server: ServerAddress | undefined;
  /** For standard output. */
  readonly paint: Paint;
  private readonly display: ProgressDisplay | undefined;
  private connection: ApplianceConnection | undefined;

  constructor({ io, dependencies, options, signal }: CommandRunOptions) {
    this.io = io;
    this.dependencies = dependencies;
    this.signal = signal;
    this.isJson = options.json === true;
    if (options.state === '') throw new ApplianceError('BAD_ARGUMENT', '--state needs a directory');
    this.stateDirectory = stateDirectory(options.state, io);
    this.server = serverAddress(options, io, (text) => resolve(io.workingDirectory, text));
    this.connect = options.connect ?? (this.server === undefined ? defaultUri(io.env) : undefined);
    this.paint = paintFor(io.stdout, io.env);
    this.display = io.stderr.isTTY === true && !this.isJson ? new ProgressDisplay(io) : undefined;
  }

  /** A path as given on the command line, for a service with another working directory. @throws BAD_ARGUMENT */
  path(text: string): string {
    if (this.server !== undefined && !isAbsolute(text)) {
      throw new ApplianceError(
        'BAD_ARGUMENT',
        `${JSON.stringify(text)} would lie on the appliance: give a whole path there`,
      );
    }
    return isAbsolute(text) ? text : resolve(this.io.workingDirectory, text);
  }

  /** An NBD URI whose paths do not depend on the working directory. @throws NBD_BAD_URI */
  nbdUri(text: string): string {
    const target = parseNbdUri(text);
    const tls = target.tls === undefined ? {} : { tls: this.tlsPaths(target.tls) };
    if (target.kind === 'tcp') return formatNbdUri({ ...target, ...tls });
    return formatNbdUri({
      ...target,
      ...tls,
      path: target.path.startsWith('\0') ? target.path : this.path(target.path),
    });
  }

  /**
   * One operation, by the service or in this process. Whoever does it checks the parameters: a command that asks the service need not
   * load the schemas for that.
   */
  async call<Name extends OperationName>(name: Name, params: OperationParams<Name>): Promise<OperationResult<Name>> {
    const { appliance, servicePid } = await this.connected();
    const checked = servicePid === undefined ? await checkedParams(name, params) : params;
    return this.callOn(appliance, name, checked);
  }

  /** The same in the service, which is started when it does not run. */
  async callService<Name extends OperationName>(
    name: Name,
    params: OperationParams<Name>,
  ): Promise<OperationResult<Name>> {
    const checked = await checkedParams(name, params);
    await this.requireService();
    return this.call(name, checked);
  }

  async connected(): Promise<ApplianceConnection> {
    const { connectAppliance, connectServer } = await import('../api/connect-appliance.ts');
    if (this.server !== undefined) {
      this.connection ??= await connectServer(this.server, (sentence) => this.notice(sentence));
      return this.connection;
    }
    this.connection ??= await connectAppliance({
      stateDirectory: this.stateDirectory,
      open: () => this.openHere(),
      signal: this.signal,
      onNotice: (sentence) => this.notice(sentence),
    });
    return this.connection;
  }

  /** What waits for a second person waits for one here, too. */
  private async openHere(): Promise<Appliance> {
    const { guardedAppliance } = await import('../api/guard/guarded-appliance.ts');
    const host = await this.dependencies.openAppliance(
      defined({
        stateDirectory: this.stateDirectory,
        connect: this.connect,
        onNotice: (sentence: string) => this.notice(sentence),
      }),
    );
    return guardedAppliance(host, host.guard);
  }

  /** From here on the service does the work. */
  async requireService(): Promise<void> {
    if (this.server !== undefined) return;
    if (this.connection?.servicePid !== undefined) return;
    await this.disconnect();
    const { startService } = await import('./start-service.ts');
    this.connection = await startService(
      defined({
        stateDirectory: this.stateDirectory,
        connect: this.connect,
        selfCommand: this.dependencies.selfCommand,
        signal: this.signal,
        clock: this.io.clock,
        onNotice: (sentence: string) => this.notice(sentence),
      }),
    );
  }

  /** Something to know besides the result: a line on standard error, also with `--json`. */
  notice(sentence: string): void {
    const paint = paintFor(this.io.stderr, this.io.env);
    this.writeError(`${paint('yellow', 'note:')} ${plain(sentence)}\n`);
  }

  /** Writes an outcome to standard output. */
  emit(outcome: Outcome): void {
    this.display?.clear();
    this.io.stdout.write(this.isJson ? `${JSON.stringify(outcome.value, null, 2)}\n` : outcome.text);
  }

  writeError(text: string): void {
    if (this.display === undefined) this.io.stderr.write(text);
    else this.display.write(text);
  }

  /** For commands that work on this machine only. @throws BAD_ARGUMENT */
  refuseServer(): void {
    if (this.server === undefined) return;
    throw new ApplianceError('BAD_ARGUMENT', 'this is done on the machine of the appliance, not through --server');
  }

  /** True when a person can be asked. */
  canAsk(): boolean {
    return !this.isJson && this.io.stdin.isTTY === true && this.io.stderr.isTTY === true;
  }

  async disconnect(): Promise<void> {
    const { connection } = this;
    this.connection = undefined;
    await connection?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.display?.clear();
    await this.disconnect();
  }

  private async callOn<Name extends OperationName>(
    appliance: Appliance,
    name: Name,
    params: OperationParams<Name>,
  ): Promise<OperationResult<Name>> {
    const operation = appliance[name].bind(appliance) as (
      params: OperationParams<Name>,
      context: OperationContext,
    ) => Promise<OperationResult<Name>>;
    try {
      return await operation(zonedParams(name, params), {
        principal: localPrincipal(),
        signal: this.signal,
        onProgress: (progress) => this.display?.update(progress),
        onNotice: (sentence) => this.notice(sentence),
      });
    } finally {
      this.display?.clear();
    }
  }

  private tlsPaths(tls: NonNullable<ReturnType<typeof parseNbdUri>['tls']>): typeof tls {
    const { certificatesDir, pskFile } = tls;
    return {
      ...tls,
      ...(certificatesDir === undefined ? {} : { certificatesDir: this.path(certificatesDir) }),
      ...(pskFile === undefined ? {} : { pskFile: this.path(pskFile) }),
    };
  }
}

async function checkedParams<Name extends OperationName>(
  name: Name,
  params: OperationParams<Name>,
): Promise<OperationParams<Name>> {
  const { checkParams } = await import('../api/schemas/check.ts');
  return checkParams(name, params);
}
