// SPDX-License-Identifier: Apache-2.0
import { randomBytes, randomUUID } from 'node:crypto';
import { accessSync, constants, existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, rmdir, statfs } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { StateDirectory } from '../appliance/app/state-directory.ts';
import { ApplianceError, systemErrorCode, toError } from '../appliance/core/errors.ts';
import { PrivateLibvirt, privateLibvirtObstacle } from '../lab/libvirtd.ts';
import { type ChildEnd, expectChild, runChild } from './child.ts';
import { endProcess, processesOf } from './processes.ts';

export const ROOT: string = join(import.meta.dirname, '..');

const MIB = 1024 * 1024;
/** Disk with its raw file and files while it is built, repository, reference, restored file: at most, per byte of disk. */
const ROOM_PER_DISK_BYTE = 4;
/** Paths of unix sockets end at 107 bytes; a guest's longest, below the folder of a private libvirt, takes 77 of them. */
const MAX_LIBVIRT_LENGTH = 30;
const SERVICE_END_LIMIT_MS = 10_000;

export interface StageRequest {
  readonly connect: string | undefined;
  readonly diskMiB: number;
  readonly signal: AbortSignal;
}

/**
 * Everything that the demo has on this machine: one directory with a unique name, a libvirt (its own, unless the user gave
 * one), two machines whose names nobody else has, and a service. Disposal takes all of it away, whatever its state is, and
 * says what it could not.
 */
export class Stage implements AsyncDisposable {
  readonly directory: string;
  readonly cacheDirectory: string;
  readonly stateDirectory: string;
  readonly machineName: string;
  readonly machineId: string = randomUUID();
  readonly bootedName: string;
  readonly signal: AbortSignal;
  uri = '';
  #libvirt: PrivateLibvirt | undefined;
  #libvirtDirectory: string | undefined;
  #isDefined = false;
  #mayBeBooted = false;
  #isGone = false;

  private constructor(directory: string, signal: AbortSignal) {
    this.directory = directory;
    this.signal = signal;
    this.cacheDirectory = cacheDirectory();
    this.stateDirectory = join(directory, 'state');
    this.machineName = `demo-${randomBytes(3).toString('hex')}`;
    this.bootedName = `${this.machineName}-2`;
  }

  /** @throws ApplianceError NO_SPACE, NOT_SUPPORTED, and what libvirt says */
  static async open(request: StageRequest): Promise<Stage> {
    const parent = temporaryDirectory();
    await checkRoom(parent, request.diskMiB * MIB * ROOM_PER_DISK_BYTE);
    const stage = new Stage(await mkdtemp(join(parent, 'us-demo-')), request.signal);
    try {
      await stage.#connect(request.connect);
      request.signal.throwIfAborted();
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
  }

  get isLibvirtPrivate(): boolean {
    return this.#libvirt !== undefined;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  async virsh(...args: readonly string[]): Promise<string> {
    return (await expectChild(['virsh', '-q', '-c', this.uri, ...args], { signal: this.signal })).stdout;
  }

  /** `./understudy` with the demo's state directory. */
  async understudy(args: readonly string[], inheritStderr: boolean = false): Promise<ChildEnd> {
    const env = { ...process.env, UNDERSTUDY_STATE: this.stateDirectory };
    return await runChild([join(ROOT, 'understudy'), ...args], { signal: this.signal, env, inheritStderr });
  }

  async define(xmlPath: string): Promise<void> {
    this.#isDefined = true;
    await this.virsh('define', xmlPath);
  }

  /** To be called before a machine of the name `bootedName` is booted. */
  expectBooted(): void {
    this.#mayBeBooted = true;
  }

  /** Every directory that is the demo's alone. */
  directories(): string[] {
    const all = [this.directory, this.#libvirtDirectory, new StateDirectory(this.stateDirectory).runtimePath];
    return all.filter(
      (path): path is string =>
        path !== undefined && (path === this.directory || !path.startsWith(`${this.directory}/`)),
    );
  }

  /** What is left of the demo, in words; empty after a disposal without problems. */
  async leftovers(): Promise<string[]> {
    const directories = this.directories();
    const processes = await Promise.all(directories.map((directory) => processesOf(directory)));
    const found = new Map(processes.flat().map(({ pid, args }) => [pid, args[0]]));
    return [...[...found].map(([pid, program]) => `process ${pid} (${program})`), ...directories.filter(existsSync)];
  }

  /** The process ids of service, machines and daemon, in the order in which they are to be ended. */
  async processIds(): Promise<number[]> {
    const service = (await this.#services()).map(({ pid }) => pid);
    const machines = (await this.#libvirt?.qemuPids()) ?? [];
    const daemon = this.#libvirt?.pid;
    return [...service, ...machines, ...(daemon === undefined ? [] : [daemon])];
  }

  /** Idempotent. @throws AggregateError with everything that could not be cleaned up */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isGone) return;
    this.#isGone = true;
    const errors: Error[] = [];
    const attempt = async (work: () => Promise<unknown>): Promise<void> => {
      try {
        await work();
      } catch (error) {
        errors.push(toError(error));
      }
    };
    // In a libvirt of the user's the appliance first takes back what it made; a private one ends with all that is in it.
    if (this.#libvirt === undefined && this.#mayBeBooted) await attempt(() => this.#stopBooted());
    for (const { pid } of await this.#services()) await attempt(() => endProcess(pid, SERVICE_END_LIMIT_MS));
    if (this.#libvirt === undefined) {
      if (this.#mayBeBooted) await attempt(() => this.#removeDomain(this.bootedName));
      if (this.#isDefined) await attempt(() => this.#removeDomain(this.machineId));
    } else await attempt(async () => this.#libvirt?.close());
    for (const directory of [this.directory, this.#libvirtDirectory ?? this.directory]) {
      await attempt(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }));
    }
    await attempt(() => removeEmptyDirectory(new StateDirectory(this.stateDirectory).runtimePath));
    if (errors.length > 0) throw new AggregateError(errors, 'the demo could not clean up everything');
  }

  async #connect(connect: string | undefined): Promise<void> {
    if (connect !== undefined) {
      this.uri = connect;
      // QEMU may run as another user there; what is secret lies in the state directory, which is closed.
      await chmod(this.directory, 0o711);
      await this.virsh('uri');
      return;
    }
    const obstacle = privateLibvirtObstacle();
    if (obstacle !== undefined) {
      throw new ApplianceError('NOT_SUPPORTED', `no private libvirt here: ${obstacle}`, {
        hint: 'Run the demo as an ordinary user, or with a libvirt of your own: npm run demo -- --connect qemu:///system',
      });
    }
    const inside = this.path('lv');
    const directory = inside.length <= MAX_LIBVIRT_LENGTH ? inside : await mkdtemp('/tmp/us-demo-lv-');
    this.#libvirtDirectory = directory;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    this.#libvirt = await PrivateLibvirt.start({ directory, cacheDirectory: join(this.cacheDirectory, 'libvirt') });
    this.uri = this.#libvirt.uri;
  }

  /** Not aborted by what ended the show. */
  async #stopBooted(): Promise<void> {
    const env = { ...process.env, UNDERSTUDY_STATE: this.stateDirectory };
    const signal = AbortSignal.timeout(60_000);
    const listed = await runChild([join(ROOT, 'understudy'), 'booted', '--json'], { signal, env });
    if (!listed.stdout.includes(this.bootedName)) return;
    await expectChild([join(ROOT, 'understudy'), 'stop', this.bootedName, '--discard'], { signal, env });
  }

  /** Ends and undefines a machine of ours. That there is none any more is fine. */
  async #removeDomain(nameOrId: string): Promise<void> {
    const signal = AbortSignal.timeout(30_000);
    const virsh = (...args: string[]): Promise<ChildEnd> =>
      runChild(['virsh', '-q', '-c', this.uri, ...args], { signal });
    if (!(await virsh('list', '--all', '--name', '--uuid')).stdout.includes(nameOrId)) return;
    await virsh('destroy', nameOrId);
    const removed = await virsh('undefine', '--checkpoints-metadata', '--snapshots-metadata', '--nvram', nameOrId);
    if (removed.exitCode === 0) return;
    if (!(await virsh('list', '--all', '--name', '--uuid')).stdout.includes(nameOrId)) return;
    throw new ApplianceError('TOOL_FAILED', `virsh undefine ${nameOrId}: ${removed.stderr.trim()}`);
  }

  async #services(): Promise<{ readonly pid: number }[]> {
    return (await processesOf(this.stateDirectory)).filter(
      ({ args }) => args.includes('serve') && args.includes(this.stateDirectory),
    );
  }
}

/** On disk rather than in memory, unless the user says otherwise. */
function temporaryDirectory(): string {
  const chosen = process.env['TMPDIR'] ?? '/var/tmp';
  return isWritable(chosen) ? chosen : tmpdir();
}

/** `.cache` of the checkout, or the user's own where that belongs to somebody else. */
function cacheDirectory(): string {
  const shared = join(ROOT, '.cache');
  if (isWritable(existsSync(shared) ? shared : ROOT)) return shared;
  return join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'understudy');
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
    return false;
  }
}

async function checkRoom(directory: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize >= neededBytes) return;
  const [needed, free] = [neededBytes, bavail * bsize].map((bytes) => Math.round(bytes / MIB));
  throw new ApplianceError('NO_SPACE', `the demo may need ${needed} MiB in ${directory}, and ${free} MiB are free`, {
    hint: 'Choose another directory with TMPDIR=…, or a smaller disk with --disk-mib.',
  });
}

async function removeEmptyDirectory(path: string): Promise<void> {
  try {
    await rmdir(path);
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT') throw error;
  }
}
