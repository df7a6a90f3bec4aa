// SPDX-License-Identifier: Apache-2.0
import { readFileSync, statSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { type Clock, systemClock } from '../core/clock.ts';
import { ApplianceError, hasCode, systemErrorCode } from '../core/errors.ts';
import { controlSocketPath } from './control-socket.ts';
import type { Appliance } from './operations.ts';
import { programVersion } from './program-version.ts';

/** A short command lets go of the state directory within this time; a longer one is reported. */
const LOCK_PATIENCE_MS = 2_000;
const LOCK_RETRY_MS = 50;

/** Longest command line that is shown of the process that holds a state directory. */
const MAX_SHOWN_COMMAND = 120;

/** Opens the appliance in this process; LOCKED when another one holds the state directory. */
export type OpenAppliance = () => Promise<Appliance>;

export interface ApplianceConnection extends AsyncDisposable {
  readonly appliance: Appliance;
  /** The service that does the work, or undefined when it is done in this process. */
  readonly servicePid: number | undefined;
  /** The service runs somewhere in the network: its paths are not those of this machine. */
  readonly isRemote: boolean;
  /** Resolves when an export of this connection ends by itself, with the service; otherwise never. */
  readonly exportEnded: (id: string) => Promise<void>;
}

export interface ConnectOptions {
  readonly stateDirectory: string;
  readonly open: OpenAppliance;
  readonly signal: AbortSignal;
  readonly onNotice: (sentence: string) => void;
  readonly clock?: Clock;
}

/**
 * The appliance of a state directory: its service when that runs, otherwise opened in this process. A state directory
 * that another command holds is waited for, shortly.
 *
 * @throws LOCKED with `details.pid` and the command of the holder; TIMED_OUT, SERVICE_UNREACHABLE; what `open` throws
 */
export async function connectAppliance(options: ConnectOptions): Promise<ApplianceConnection> {
  const clock = options.clock ?? systemClock;
  const giveUpMs = clock.elapsedMs() + LOCK_PATIENCE_MS;
  for (;;) {
    const remote = await connectService(options);
    if (remote !== undefined) return remote;
    try {
      return inProcess(await options.open());
    } catch (error) {
      if (!hasCode(error, 'LOCKED')) throw error;
      if (clock.elapsedMs() >= giveUpMs) throw describeHolder(error, options.stateDirectory);
      await pause(LOCK_RETRY_MS, options.signal);
    }
  }
}

/** A service in the network. */
export interface ServerAddress {
  readonly url: string;
  readonly token: string | undefined;
  readonly fingerprint: string | undefined;
  /** PEM. */
  readonly ca: string | undefined;
}

/**
 * The appliance at an address, once it has answered.
 * @throws BAD_ARGUMENT; SERVICE_UNREACHABLE, TIMED_OUT, CERTIFICATE_UNTRUSTED, UNAUTHENTICATED, FORBIDDEN
 */
export async function connectServer(
  address: ServerAddress,
  onNotice: (sentence: string) => void,
): Promise<ApplianceConnection> {
  const { checkAuthority, RemoteEndpoint } = await import('./client/remote-endpoint.ts');
  const { askVersion } = await import('./client/find-service.ts');
  const { remoteAppliance } = await import('./client/remote-appliance.ts');
  if (address.ca !== undefined) checkAuthority(address.ca);
  const endpoint = new RemoteEndpoint(address);
  noticeVersion(await askVersion(endpoint), `the service at ${endpoint.name}`, onNotice);
  const appliance = remoteAppliance(endpoint);
  return {
    appliance,
    servicePid: undefined,
    isRemote: true,
    exportEnded: (id) => appliance.exportEnded(id),
    [Symbol.asyncDispose]: () => appliance[Symbol.asyncDispose](),
  };
}

/** The running service of a state directory, or undefined. @throws TIMED_OUT, SERVICE_UNREACHABLE */
export async function connectService(
  options: Pick<ConnectOptions, 'stateDirectory' | 'onNotice'>,
): Promise<ApplianceConnection | undefined> {
  if (!mayListen(options.stateDirectory)) return undefined;
  // Loaded when there is somebody to speak HTTP with: most commands work alone.
  const { findService } = await import('./client/find-service.ts');
  const health = await findService(options.stateDirectory);
  if (health === undefined) return undefined;
  noticeVersion(health.version, `the service (process ${health.pid})`, options.onNotice);
  const { remoteAppliance } = await import('./client/remote-appliance.ts');
  const { LocalEndpoint } = await import('./client/endpoint.ts');
  const appliance = remoteAppliance(new LocalEndpoint(options.stateDirectory));
  return {
    appliance,
    servicePid: health.pid,
    isRemote: false,
    exportEnded: (id) => appliance.exportEnded(id),
    [Symbol.asyncDispose]: () => appliance[Symbol.asyncDispose](),
  };
}

function noticeVersion(version: string, who: string, onNotice: (sentence: string) => void): void {
  const own = programVersion();
  if (version !== own) onNotice(`${who} is version ${version}, this command ${own}`);
}

/** Without a socket nobody listens. What is wrong with one is for `findService` to say. */
function mayListen(stateDirectory: string): boolean {
  try {
    return statSync(controlSocketPath(stateDirectory), { throwIfNoEntry: false }) !== undefined;
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
    return true;
  }
}

/** Waits, or throws ABORTED. */
export async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  try {
    await delay(milliseconds, undefined, { signal });
  } catch (cause) {
    throw new ApplianceError('ABORTED', 'interrupted', { cause });
  }
}

function inProcess(appliance: Appliance): ApplianceConnection {
  return {
    appliance,
    servicePid: undefined,
    isRemote: false,
    exportEnded: () => new Promise(() => undefined),
    [Symbol.asyncDispose]: async () => {
      await appliance[Symbol.asyncDispose]();
    },
  };
}

/** The same error, with what the holder is doing, as far as this user may see it. */
export function describeHolder(error: ApplianceError, stateDirectory: string): ApplianceError {
  const pid = error.details['pid'];
  if (typeof pid !== 'number') return error;
  const command = commandOf(pid);
  const shown = command === undefined ? '' : ` (${command})`;
  return new ApplianceError('LOCKED', `process ${pid}${shown} is using ${stateDirectory}`, {
    cause: error,
    details: { ...error.details, stateDirectory, ...(command === undefined ? {} : { command }) },
    hint: 'Wait until it has ended. With `understudy serve` running, commands work at the same time.',
  });
}

function commandOf(pid: number): string | undefined {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      .split('\0')
      .filter((word) => word !== '');
    const entry = words.findIndex((word) => word.endsWith('/cli.ts'));
    const own = entry < 0 ? words : ['understudy', ...words.slice(entry + 1)];
    return own.join(' ').slice(0, MAX_SHOWN_COMMAND);
  } catch (error) {
    // Ended meanwhile, or another user's: the process id alone has to do.
    if (systemErrorCode(error) !== undefined) return undefined;
    throw error;
  }
}
