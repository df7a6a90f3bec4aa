// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../../core/clock.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { readBackupXml } from './backup-xml.ts';
import type { CallOptions } from './call-channel.ts';
import { type Caller, Checkpoint } from './checkpoint.ts';
import { listCheckpoints } from './checkpoint-list.ts';
import {
  BLOCK_COPY,
  BLOCK_JOB_ABORT,
  CHECKPOINT_CREATE,
  DEVICE_AFFECT,
  DOMAIN_XML,
  JOB_STATS,
  START,
  UNDEFINE,
} from './constants.ts';
import type {
  BlockCopyParams,
  BlockInfo,
  BlockJobInfo,
  DomainIdentity,
  DomainState,
  JobInfo,
  JobStats,
  Screenshot,
} from './protocol.ts';

export interface XmlOptions extends CallOptions {
  /** With passwords (VIR_DOMAIN_XML_SECURE). */
  readonly isSecure?: boolean;
  /** The definition for the next start, not the running state. */
  readonly isInactive?: boolean;
  /** In a form that other libvirt versions take. */
  readonly isMigratable?: boolean;
}

export interface UndefineOptions extends CallOptions {
  /** What to remove with it; libvirt refuses when one exists and neither this nor a `keep…` is given. */
  readonly managedSave?: boolean;
  readonly nvram?: boolean;
  readonly keepNvram?: boolean;
  readonly checkpointsMetadata?: boolean;
  readonly snapshotsMetadata?: boolean;
  /** libvirt ≥ 8.9. */
  readonly tpm?: boolean;
}

/** Where a device change is made: the running domain, its definition, or both. */
export interface DeviceChange {
  readonly change: 'attach' | 'update' | 'detach';
  readonly xml: string;
  readonly affects: readonly ('live' | 'config')[];
}

/** A copy of a running disk; `virDomainBlockCopy`. */
export interface BlockCopy {
  /** Target name, e.g. `vda`. */
  readonly disk: string;
  readonly destinationXml: string;
  readonly params?: BlockCopyParams;
  /** Only the topmost image is copied. */
  readonly isShallow?: boolean;
  /** The destination is there already: always true of network disks. */
  readonly reusesDestination?: boolean;
  /** The job need not outlive QEMU; libvirt demands it for persistent machines. */
  readonly isTransient?: boolean;
  /** A guest's write ends when it is in the copy, too (libvirt 8.0, QEMU 3.0). */
  readonly isSynchronous?: boolean;
}

export interface BlockJobEnd extends CallOptions {
  readonly isPivot?: boolean;
  readonly isAsync?: boolean;
}

export interface AgentOptions extends CallOptions {
  /** How long libvirt waits for the agent's answer. */
  readonly timeoutSeconds?: number;
}

export const DEFAULT_AGENT_TIMEOUT_SECONDS = 10;
const BACKUP_END_TIMEOUT_MS = 30_000;
const BACKUP_END_POLL_MS = 4;

/**
 * A domain, by UUID: a name for calls, not a handle. It stays valid over restarts of the daemon and of the domain, on any
 * connection to the same host. Every method throws DOMAIN_NOT_FOUND when the domain is gone.
 */
export class Domain implements DomainIdentity {
  readonly uuid: string;
  readonly name: string;
  readonly #caller: Caller;

  constructor(caller: Caller, identity: DomainIdentity) {
    this.#caller = caller;
    this.uuid = identity.uuid;
    this.name = identity.name;
  }

  async xml(options: XmlOptions = {}): Promise<string> {
    const flags =
      (options.isSecure === true ? DOMAIN_XML.secure : 0) |
      (options.isInactive === true ? DOMAIN_XML.inactive : 0) |
      (options.isMigratable === true ? DOMAIN_XML.migratable : 0);
    return await this.#caller.call('domainXml', { uuid: this.uuid, flags }, options);
  }

  async state(options?: CallOptions): Promise<DomainState> {
    return await this.#caller.call('domainState', { uuid: this.uuid }, options);
  }

  async isPersistent(options?: CallOptions): Promise<boolean> {
    return await this.#caller.call('isPersistent', { uuid: this.uuid }, options);
  }

  /** Removes the definition; a running domain becomes transient. Disks are never touched. */
  async undefine(options: UndefineOptions = {}): Promise<void> {
    const flags =
      (options.managedSave === true ? UNDEFINE.managedSave : 0) |
      (options.nvram === true ? UNDEFINE.nvram : 0) |
      (options.keepNvram === true ? UNDEFINE.keepNvram : 0) |
      (options.checkpointsMetadata === true ? UNDEFINE.checkpointsMetadata : 0) |
      (options.snapshotsMetadata === true ? UNDEFINE.snapshotsMetadata : 0) |
      (options.tpm === true ? UNDEFINE.tpm : 0);
    await this.#caller.call('undefine', { uuid: this.uuid, flags }, options);
  }

  /** Throws DOMAIN_WRONG_STATE when it runs. */
  async start(options: CallOptions & { readonly isPaused?: boolean } = {}): Promise<void> {
    const flags = options.isPaused === true ? START.paused : 0;
    await this.#caller.call('start', { uuid: this.uuid, flags }, options);
  }

  /** Pulls the plug. */
  async destroy(options?: CallOptions): Promise<void> {
    await this.#caller.call('destroy', { uuid: this.uuid, flags: 0 }, options);
  }

  /** Asks the guest to shut down and returns at once; watch for the `stopped` event. */
  async shutdown(options?: CallOptions): Promise<void> {
    await this.#caller.call('shutdown', { uuid: this.uuid, flags: 0 }, options);
  }

  async suspend(options?: CallOptions): Promise<void> {
    await this.#caller.call('suspend', { uuid: this.uuid }, options);
  }

  async resume(options?: CallOptions): Promise<void> {
    await this.#caller.call('resume', { uuid: this.uuid }, options);
  }

  /** Whether libvirt starts it when the host starts. */
  async autostart(options?: CallOptions): Promise<boolean> {
    return await this.#caller.call('autostart', { uuid: this.uuid }, options);
  }

  /** Whether libvirt starts it when the host starts, from now on. */
  async setAutostart(isOn: boolean, options?: CallOptions): Promise<void> {
    await this.#caller.call('setAutostart', { uuid: this.uuid, isOn }, options);
  }

  /** Takes the element of a namespace out of `<metadata>`, of the running domain or of its definition. */
  async removeMetadata(
    namespace: string,
    affects: readonly ('live' | 'config')[],
    options?: CallOptions,
  ): Promise<void> {
    const flags = affects.reduce((sum, where) => sum | DEVICE_AFFECT[where], 0);
    await this.#caller.call('removeMetadata', { uuid: this.uuid, namespace, flags }, options);
  }

  /** Only while it is shut off. Throws DOMAIN_WRONG_STATE, DOMAIN_EXISTS. */
  async rename(name: string, options?: CallOptions): Promise<Domain> {
    await this.#caller.call('rename', { uuid: this.uuid, name }, options);
    return new Domain(this.#caller, { uuid: this.uuid, name });
  }

  async changeDevice({ change, xml, affects }: DeviceChange, options?: CallOptions): Promise<void> {
    const flags = affects.reduce((sum, where) => sum | DEVICE_AFFECT[where], 0);
    await this.#caller.call('changeDevice', { uuid: this.uuid, change, xml, flags }, options);
  }

  async screenshot(options?: CallOptions): Promise<Screenshot> {
    return await this.#caller.call('screenshot', { uuid: this.uuid }, options);
  }

  /** `disk` is a target name or a source path. */
  async blockInfo(disk: string, options?: CallOptions): Promise<BlockInfo> {
    return await this.#caller.call('blockInfo', { uuid: this.uuid, disk }, options);
  }

  async blockResize(disk: string, sizeBytes: number, options?: CallOptions): Promise<void> {
    await this.#caller.call('blockResize', { uuid: this.uuid, disk, sizeBytes }, options);
  }

  /** The block job on one disk, null when there is none. */
  async blockJobInfo(disk: string, options?: CallOptions): Promise<BlockJobInfo | null> {
    return await this.#caller.call('blockJobInfo', { uuid: this.uuid, disk }, options);
  }

  /**
   * Copies a disk while the machine runs, and then keeps the copy equal, until the job is ended. Returns when the job has begun.
   * `destinationXml` is a `<disk>` (libvirt: formatdomain, "Hard drives"). Throws DOMAIN_BUSY when a job holds the disk,
   * DOMAIN_WRONG_STATE when the machine is off, NOT_SUPPORTED; LIBVIRT_FAILED with QEMU's words when the destination cannot be opened.
   */
  async blockCopy(copy: BlockCopy, options?: CallOptions): Promise<void> {
    const flags =
      (copy.isShallow === true ? BLOCK_COPY.shallow : 0) |
      (copy.reusesDestination === true ? BLOCK_COPY.reuseExternal : 0) |
      (copy.isTransient === true ? BLOCK_COPY.transientJob : 0) |
      (copy.isSynchronous === true ? BLOCK_COPY.synchronousWrites : 0);
    const { disk, destinationXml, params = {} } = copy;
    await this.#caller.call('blockCopy', { uuid: this.uuid, disk, destinationXml, params, flags }, options);
  }

  /**
   * Ends the block job on one disk, whosever it is: the machine goes on with the disk it has, or, with `isPivot`, with the copy.
   * Waits until the job is gone, which holds up this connection, unless it `isAsync`. Throws NO_BLOCK_JOB, and DOMAIN_BUSY for a
   * pivot to a copy that is not ready.
   */
  async abortBlockJob(disk: string, options: BlockJobEnd = {}): Promise<void> {
    const flags =
      (options.isAsync === true ? BLOCK_JOB_ABORT.async : 0) | (options.isPivot === true ? BLOCK_JOB_ABORT.pivot : 0);
    await this.#caller.call('blockJobAbort', { uuid: this.uuid, disk, flags }, options);
  }

  /**
   * Starts a backup job and creates the checkpoint in one atomic step. Throws DOMAIN_BUSY when any job or block job runs,
   * DOMAIN_WRONG_STATE when the domain is off, CHECKPOINT_NOT_FOUND or CHECKPOINT_INCONSISTENT for the base, NOT_SUPPORTED.
   */
  async backupBegin(
    xml: { readonly backup: string; readonly checkpoint?: string; readonly reusesFiles?: boolean },
    options?: CallOptions,
  ): Promise<void> {
    const args = {
      uuid: this.uuid,
      backupXml: xml.backup,
      checkpointXml: xml.checkpoint ?? null,
      flags: xml.reusesFiles === true ? 1 : 0,
    };
    await this.#caller.call('backupBegin', args, options);
  }

  /** The running backup job with what libvirt chose for it. Throws NO_BACKUP_JOB. */
  async backupXml(options?: CallOptions): Promise<string> {
    return await this.#caller.call('backupXml', { uuid: this.uuid }, options);
  }

  async jobInfo(options?: CallOptions): Promise<JobInfo> {
    return await this.#caller.call('jobInfo', { uuid: this.uuid }, options);
  }

  /** Of the running job, or, with `ofCompleted`, of the last one. */
  async jobStats(options: CallOptions & { readonly ofCompleted?: boolean } = {}): Promise<JobStats> {
    const flags = options.ofCompleted === true ? JOB_STATS.completed | JOB_STATS.keepCompleted : 0;
    return await this.#caller.call('jobStats', { uuid: this.uuid, flags }, options);
  }

  /**
   * Ends the pull backup whose NBD server is at the unix socket `mark`, or whose exports' names all begin with `mark`, and waits until
   * it is gone, with its socket and scratch files; a job of anybody else is left alone. Returns whether there was such a backup. Throws TIMED_OUT, also for the waiting.
   */
  async endBackup(mark: string, options: CallOptions = {}): Promise<boolean> {
    if (!(await this.#isBackupRunning(mark, options))) return false;
    try {
      await this.abortJob(options);
    } catch (error) {
      // It ended meanwhile, or the machine did.
      if (!hasCode(error, 'DOMAIN_WRONG_STATE')) throw error;
    }
    const deadline = systemClock.elapsedMs() + (options.timeoutMs ?? BACKUP_END_TIMEOUT_MS);
    while (await this.#isBackupRunning(mark, options)) {
      if (systemClock.elapsedMs() > deadline) {
        throw new ApplianceError('TIMED_OUT', `the backup job of ${this.name} does not end`, {
          details: { mark },
        });
      }
      await delay(BACKUP_END_POLL_MS);
    }
    return true;
  }

  /** Asks the running job, whosever it is, to end, and returns before it has. Throws DOMAIN_WRONG_STATE when there is none. */
  async abortJob(options?: CallOptions): Promise<void> {
    await this.#caller.call('abortJob', { uuid: this.uuid }, options);
  }

  /** Oldest first. */
  async checkpoints(options?: CallOptions): Promise<Checkpoint[]> {
    const listed = await listCheckpoints(this.#caller, this.uuid, options);
    return listed.map((identity) => new Checkpoint(this.#caller, this.uuid, identity));
  }

  /** Throws CHECKPOINT_NOT_FOUND. */
  async checkpoint(name: string, options?: CallOptions): Promise<Checkpoint> {
    const identity = await this.#caller.call('lookupCheckpoint', { uuid: this.uuid, name }, options);
    return new Checkpoint(this.#caller, this.uuid, identity);
  }

  async createCheckpoint(xml: string, options?: CallOptions): Promise<Checkpoint> {
    const identity = await this.#caller.call('createCheckpoint', { uuid: this.uuid, xml, flags: 0 }, options);
    return new Checkpoint(this.#caller, this.uuid, identity);
  }

  /**
   * Tells libvirt again of a checkpoint whose bitmaps are in the images (`xml` of `Checkpoint.xml()`, which has the creation
   * time). With `isValidated` (libvirt ≥ 6.10) the bitmaps are looked at: CHECKPOINT_INCONSISTENT when one is broken or missing.
   */
  async redefineCheckpoint(
    xml: string,
    options: CallOptions & { readonly isValidated?: boolean } = {},
  ): Promise<Checkpoint> {
    const flags = CHECKPOINT_CREATE.redefine | (options.isValidated === true ? CHECKPOINT_CREATE.redefineValidate : 0);
    const identity = await this.#caller.call('createCheckpoint', { uuid: this.uuid, xml, flags }, options);
    return new Checkpoint(this.#caller, this.uuid, identity);
  }

  /** For all later agent calls on this domain by anybody; see `AGENT_TIMEOUT` for the special values. */
  async setAgentTimeout(seconds: number, options?: CallOptions): Promise<void> {
    await this.#caller.call('setAgentTimeout', { uuid: this.uuid, seconds }, options);
  }

  /**
   * Freezes all file systems of the guest and returns how many. Throws AGENT_UNAVAILABLE, AGENT_TIMED_OUT, AGENT_FAILED; after
   * any of them the guest may be frozen all the same: always call `fsThaw`.
   */
  async fsFreeze(options: AgentOptions = {}): Promise<number> {
    const timeoutSeconds = options.timeoutSeconds ?? DEFAULT_AGENT_TIMEOUT_SECONDS;
    return await this.#caller.call('fsFreeze', { uuid: this.uuid, timeoutSeconds }, options);
  }

  /** Thaws and returns how many file systems were frozen; nothing happens when none was. */
  async fsThaw(options: AgentOptions = {}): Promise<number> {
    const timeoutSeconds = options.timeoutSeconds ?? DEFAULT_AGENT_TIMEOUT_SECONDS;
    return await this.#caller.call('fsThaw', { uuid: this.uuid, timeoutSeconds }, options);
  }

  /** One command of the guest agent's protocol; returns the `return` value. `virDomainQemuAgentCommand`. */
  async agentCommand(command: Readonly<Record<string, unknown>>, options: AgentOptions = {}): Promise<unknown> {
    const timeoutSeconds = options.timeoutSeconds ?? DEFAULT_AGENT_TIMEOUT_SECONDS;
    const args = { uuid: this.uuid, command: JSON.stringify(command), timeoutSeconds };
    return returnValue(await this.#caller.call('agentCommand', args, options));
  }

  /** One QMP command, for diagnostics only: libvirt marks the domain as tainted. Returns QEMU's `return` or `error` object. */
  async monitorCommand(command: Readonly<Record<string, unknown>>, options?: CallOptions): Promise<unknown> {
    const args = { uuid: this.uuid, command: JSON.stringify(command) };
    return returnValue(await this.#caller.call('monitorCommand', args, options));
  }

  async #isBackupRunning(mark: string, options: CallOptions): Promise<boolean> {
    try {
      const { socketPath, exportNames } = readBackupXml(await this.backupXml(options));
      if (socketPath === mark) return true;
      return exportNames.length > 0 && exportNames.every((name) => name.startsWith(mark));
    } catch (error) {
      if (hasCode(error, 'NO_BACKUP_JOB', 'DOMAIN_WRONG_STATE', 'DOMAIN_NOT_FOUND')) return false;
      throw error;
    }
  }
}

function returnValue(text: string): unknown {
  const reply: unknown = JSON.parse(text);
  if (typeof reply === 'object' && reply !== null && 'return' in reply) return reply.return;
  return reply;
}
