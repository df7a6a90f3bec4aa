// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import {
  type LibvirtLayout,
  MOUNT_NAMESPACE_COMMAND,
  outsideOf,
  sessionLayout,
  systemLayout,
  USER_NAMESPACE_COMMAND,
} from './libvirt-layout.ts';
import { reapedPid } from './reaper.ts';

export interface PrivateLibvirtOptions {
  /** Where its files live; a fresh directory below the system's temporary one by default. Keep it short: sockets. */
  readonly directory?: string;
  /** Kept between runs, because libvirt examines every QEMU for seconds the first time. */
  readonly cacheDirectory?: string;
  /** See `systemLayout`. Only for root; directories that its QEMU is to enter must let it. */
  readonly isSystem?: boolean;
  /** More lines of qemu.conf. */
  readonly qemuConf?: readonly string[];
  /** Also listens for TLS on the loopback address; the files are in PEM format. */
  readonly tls?: {
    readonly port: number;
    readonly authorityPath: string;
    readonly certificatePath: string;
    readonly keyPath: string;
  };
}

/** Unix socket paths end at 107 bytes; libvirt's longest below the directory needs 55 of them. */
const MAX_DIRECTORY_LENGTH = 52;
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 3_000;
const POLL_MS = 20;

/**
 * A libvirt daemon of our own, in session mode unless asked otherwise, with its own sockets, definitions and state below one directory: it shares nothing
 * with a daemon of the system, needs no systemd and no configuration elsewhere, and any number run side by side. Root gets the
 * session mode in a user namespace in which root is not root; files still belong to root.
 */
export class PrivateLibvirt implements AsyncDisposable {
  readonly directory: string;
  readonly uri: string;
  readonly logPath: string;
  readonly #layout: LibvirtLayout;
  readonly #options: PrivateLibvirtOptions;
  #daemon: ChildProcess | undefined;

  private constructor(directory: string, cacheDirectory: string, options: PrivateLibvirtOptions) {
    this.directory = directory;
    this.logPath = join(directory, 'libvirtd.log');
    const layout = options.isSystem === true ? systemLayout : sessionLayout;
    this.#layout = layout(directory, cacheDirectory);
    this.uri = this.#layout.uri;
    this.#options = options;
  }

  /** Throws TOOL_MISSING without libvirtd, TOOL_FAILED when it does not come up (with the end of its log). */
  static async start(options: PrivateLibvirtOptions = {}): Promise<PrivateLibvirt> {
    const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'us-lv-')));
    if (directory.length > MAX_DIRECTORY_LENGTH) {
      throw new ApplianceError('BAD_ARGUMENT', `the path is too long for libvirt's sockets: ${directory}`);
    }
    const cache = options.cacheDirectory ?? defaultCacheDirectory();
    const libvirt = new PrivateLibvirt(directory, cache, options);
    await libvirt.#prepare();
    await libvirt.startDaemon();
    return libvirt;
  }

  get isSystem(): boolean {
    return this.#options.isSystem === true;
  }

  /** The daemon's process id, while it runs. */
  get pid(): number | undefined {
    const pid = this.#daemon?.pid;
    return pid === undefined ? undefined : reapedPid(pid, 'libvirtd');
  }

  /** Starts the daemon again after `killDaemon` or `stopDaemon`; it finds the domains that still run. */
  async startDaemon(): Promise<void> {
    const log = openSync(this.logPath, 'a');
    const { command: words, configDirectory, environment } = this.#layout;
    const [command = '', ...args] = words;
    if (this.#options.tls !== undefined) args.push('--listen', '--config', join(configDirectory, 'libvirtd.conf'));
    const daemon = spawn(command, args, { env: environment, stdio: ['ignore', log, log] });
    closeSync(log);
    const failed = Promise.withResolvers<never>();
    failed.promise.catch(() => undefined);
    daemon.on('error', (cause) => {
      failed.reject(new ApplianceError('TOOL_MISSING', `${command} cannot be started`, { cause }));
    });
    this.#daemon = daemon;
    try {
      await Promise.race([this.#waitForSocket(daemon), failed.promise]);
    } catch (error) {
      daemon.kill('SIGKILL');
      this.#daemon = undefined;
      throw error;
    }
  }

  /** Ends the daemon at once, as a crash would; domains go on running. */
  async killDaemon(): Promise<void> {
    await this.#endDaemon('SIGKILL');
  }

  /** Ends the daemon in an orderly way; domains go on running. */
  async stopDaemon(): Promise<void> {
    await this.#endDaemon('SIGTERM');
  }

  /** Where a path that the daemon names is for us. */
  outside(path: string): string {
    return this.isSystem ? outsideOf(this.directory, path) : path;
  }

  /** The process ids of the domains that run, by their pid files. */
  async qemuPids(): Promise<number[]> {
    return (await this.#runningDomains()).map(({ pid }) => pid);
  }

  /** The process id of the QEMU of a domain, while it runs. */
  async qemuPid(domainName: string): Promise<number | undefined> {
    return (await this.#runningDomains()).find(({ name }) => name === domainName)?.pid;
  }

  async #runningDomains(): Promise<{ readonly name: string; readonly pid: number }[]> {
    const runDirectory = this.#layout.pidDirectory;
    if (!existsSync(runDirectory)) return [];
    const running: { name: string; pid: number }[] = [];
    for (const fileName of await readdir(runDirectory)) {
      if (!fileName.endsWith('.pid') || fileName === 'driver.pid') continue;
      const pid = Number((await readFile(join(runDirectory, fileName), 'utf8')).trim());
      const name = fileName.slice(0, -'.pid'.length);
      if (Number.isInteger(pid) && pid > 1 && isQemu(pid, name)) running.push({ name, pid });
    }
    return running;
  }

  /** Ends every domain and the daemon, by process id, and removes the directory if it was made here. Idempotent. */
  async close(): Promise<void> {
    // Domains first: a daemon with a job in hand takes its time to end. Then those that it was about to start.
    await this.#endDomains();
    await this.stopDaemon();
    await this.#endDomains();
    if (this.#options.directory === undefined)
      await rm(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** For the exit handler of a program that is interrupted: ends daemon and domains without waiting. */
  killNow(pids: readonly number[]): void {
    if (this.pid !== undefined) signalProcess(this.pid, 'SIGKILL');
    for (const pid of pids) signalProcess(pid, 'SIGKILL');
  }

  async #endDomains(): Promise<void> {
    const running = await this.#runningDomains();
    for (const { pid } of running) signalProcess(pid, 'SIGKILL');
    // One that has ended and whose parent has not looked yet has no command line, and holds nothing any more.
    for (const { name, pid } of running) await waitUntil(() => !isQemu(pid, name), STOP_TIMEOUT_MS);
  }

  async #prepare(): Promise<void> {
    const { directories, directoryMode, configDirectory, environment, qemuConf, daemonConf } = this.#layout;
    if (this.isSystem) await chmod(this.directory, directoryMode);
    for (const path of directories) await mkdir(path, { recursive: true, mode: directoryMode });
    await mkdir(environment['XDG_CACHE_HOME'] ?? this.directory, { recursive: true });
    const lines = [...qemuConf, ...(this.#options.qemuConf ?? [])];
    await writeFile(join(configDirectory, 'qemu.conf'), `${lines.join('\n')}\n`);
    const settings = [...daemonConf, ...this.#tlsConf()];
    await writeFile(join(configDirectory, 'libvirtd.conf'), settings.map((line) => `${line}\n`).join(''));
  }

  #tlsConf(): string[] {
    if (this.#options.tls === undefined) return [];
    const { port, authorityPath, certificatePath, keyPath } = this.#options.tls;
    const settings = ['listen_tls = 1', 'listen_tcp = 0', 'listen_addr = "127.0.0.1"', `tls_port = "${port}"`];
    return [...settings, `ca_file = "${authorityPath}"`, `cert_file = "${certificatePath}"`, `key_file = "${keyPath}"`];
  }

  async #waitForSocket(daemon: ChildProcess): Promise<void> {
    const socket = this.#layout.socketPath;
    const deadline = systemClock.elapsedMs() + START_TIMEOUT_MS;
    while (systemClock.elapsedMs() < deadline) {
      if (daemon.exitCode !== null || daemon.signalCode !== null) break;
      if (await accepts(socket)) return;
      await delay(POLL_MS);
    }
    const log = existsSync(this.logPath) ? readFileSync(this.logPath, 'utf8').slice(-2000) : '';
    throw new ApplianceError('TOOL_FAILED', `libvirtd did not start: ${log.trim()}`, { details: { log } });
  }

  async #endDaemon(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const daemon = this.#daemon;
    const { pid } = this;
    this.#daemon = undefined;
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
    const exited = new Promise((resolve) => daemon.once('exit', resolve));
    if (pid !== undefined) signalProcess(pid, signal);
    const timer = setTimeout(() => daemon.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(timer);
  }
}

/** Why a private libvirt cannot run here, or undefined when it can. */
export function privateLibvirtObstacle(): string | undefined {
  if (spawnSync('libvirtd', ['--version'], { env: withSystemPath() }).status !== 0) return 'libvirtd is not installed';
  if (process.getuid?.() !== 0) return undefined;
  const [command, ...args] = USER_NAMESPACE_COMMAND;
  const probe = spawnSync(command, [...args, 'true'], { env: withSystemPath() });
  if (probe.status === 0) return undefined;
  return `root cannot create a user namespace here: ${probe.stderr?.toString().trim() ?? 'unshare is missing'}`;
}

/** Why a private libvirt of the system's kind cannot run here, or undefined when it can. */
export function systemLibvirtObstacle(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can start one';
  if (spawnSync('libvirtd', ['--version'], { env: withSystemPath() }).status !== 0) return 'libvirtd is not installed';
  if (spawnSync('id', ['libvirt-qemu']).status !== 0) return 'there is no user libvirt-qemu';
  const [command, ...args] = MOUNT_NAMESPACE_COMMAND;
  const probe = spawnSync(command, [...args, 'mount', '--bind', '/tmp', '/tmp'], { env: withSystemPath() });
  if (probe.status === 0) return undefined;
  return `nothing can be mounted here: ${probe.stderr?.toString().trim() ?? 'unshare is missing'}`;
}

function withSystemPath(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
}

function defaultCacheDirectory(): string {
  const directory = join(import.meta.dirname, '..', '.cache', 'libvirt');
  mkdirSync(directory, { recursive: true });
  return directory;
}

/** A pid file may be older than the process that has its number now. */
function isQemu(pid: number, domainName: string): boolean {
  try {
    const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    return commandLine.includes('qemu') && commandLine.includes(`guest=${domainName}`);
  } catch (error) {
    if (existsSync(`/proc/${pid}/cmdline`)) throw error;
    return false;
  }
}

function signalProcess(pid: number, signal: NodeJS.Signals): void {
  if (existsSync(`/proc/${pid}`)) process.kill(pid, signal);
}

async function accepts(socketPath: string): Promise<boolean> {
  if (!existsSync(socketPath)) return false;
  return await new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
  });
}

async function waitUntil(condition: () => boolean, timeoutMs: number): Promise<boolean> {
  const deadline = systemClock.elapsedMs() + timeoutMs;
  while (!condition()) {
    if (systemClock.elapsedMs() > deadline) return false;
    await delay(POLL_MS);
  }
  return true;
}
