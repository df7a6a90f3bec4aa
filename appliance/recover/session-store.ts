// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectoryDurably, renameDurably, writeDurably } from '../core/durable-file.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import { invariant } from '../core/invariant.ts';
import type { QemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { JournalMoment } from '../volume/recoverable-state.ts';
import type { MigrationRecord } from './migration-record.ts';
import { removeTree } from './point-exports.ts';
import type { SpareWishes } from './standby/spare-definition.ts';

/**
 * Where a session is. What a crash leaves in one of the middle states is brought to an end at the next start:
 *
 *   starting → running → stopping → kept → resuming → running → discarding → (gone)
 *   starting: everything is removed · resuming, stopping: kept · discarding: everything is removed
 */
export type SessionPhase = 'starting' | 'resuming' | 'running' | 'stopping' | 'kept' | 'discarding';

/** A booted machine as it is remembered over restarts of the service. */
export interface Session {
  /** Names its directory: 16 hexadecimal digits. */
  readonly id: string;
  /** The domain's. Unique among the sessions. */
  readonly name: string;
  readonly phase: SessionPhase;
  /** Whole, so that the disks can be served again even when its manifest cannot be read. */
  readonly point: RecoveryPoint;
  /** The moment above the point from which it was booted: its own log begins with what the journal held of it. */
  readonly moment?: JournalMoment;
  readonly connect: string;
  /** The domain's. */
  readonly machineId: string;
  readonly keepsIdentity: boolean;
  /** It stands in for a machine: what is to be different from the saved definition. */
  readonly spare?: SpareWishes;
  readonly startedAt: string;
  /** Who its QEMU runs as, when that is another user than ours (`qemu:///system`). */
  readonly qemuOwner?: QemuOwner;
  /** While its disks are being moved to production storage, and after an interruption of that. */
  readonly migration?: MigrationRecord;
}

interface StoredSession extends Session {
  readonly format: 'understudy-session';
  readonly version: number;
}

const FILE_NAME = 'session.json';
const VERSION = 1;
/** End of the name of a directory that is being removed. */
const DISCARDED = '.discarded';
const ID = /^[0-9a-f]{16}$/;

/**
 * The sessions of a state directory, one directory each under `sessions/`: `session.json`, the write log in `log/`, and
 * `nvram`. The file is written before anything else of the session is made, and the directory goes as one, so
 * that nothing of a session is ever forgotten. It does not depend on the catalog, which may be deleted at any time.
 */
export class SessionStore {
  readonly #directory: string;

  constructor(stateDirectory: string) {
    this.#directory = join(stateDirectory, 'sessions');
  }

  newId(): string {
    return randomBytes(8).toString('hex');
  }

  directoryOf(session: Session): string {
    invariant(ID.test(session.id), 'a session id is a plain name');
    return join(this.#directory, session.id);
  }

  logDirectoryOf(session: Session): string {
    return join(this.directoryOf(session), 'log');
  }

  nvramPathOf(session: Session): string {
    return join(this.directoryOf(session), 'nvram');
  }

  consolePathOf(session: Session): string {
    return join(this.directoryOf(session), 'console');
  }

  /** Bytes of its write log. @throws ApplianceError IO_FAILED */
  async logBytesOf(session: Session): Promise<number> {
    const directory = this.logDirectoryOf(session);
    let bytes = 0;
    for (const name of await this.#names(directory)) bytes += (await stat(join(directory, name))).size;
    return bytes;
  }

  /** Durable when settled. @throws ApplianceError NO_SPACE, IO_FAILED */
  async put(session: Session): Promise<void> {
    const directory = this.directoryOf(session);
    await makeDirectoryDurably(directory);
    const stored: StoredSession = { format: 'understudy-session', version: VERSION, ...session };
    await writeDurably(join(directory, FILE_NAME), `${JSON.stringify(stored, null, 2)}\n`);
  }

  /**
   * Removes everything of the session. It is gone at once for whoever looks later (its directory is renamed first), and no
   * space is needed for that. @throws ApplianceError IO_FAILED
   */
  async remove(session: Session): Promise<void> {
    const directory = this.directoryOf(session);
    await renameDurably(directory, directory + DISCARDED);
    await removeTree(directory + DISCARDED);
  }

  /**
   * Every session there is; directories without a session file, which a crash left before anything was made, and those
   * that were being removed, are removed.
   * A file that cannot be read fails: it may belong to a machine that runs. @throws ApplianceError IO_FAILED, REPOSITORY_FORMAT
   */
  async load(): Promise<Session[]> {
    const sessions: Session[] = [];
    for (const id of await this.#names(this.#directory)) {
      if (id.endsWith(DISCARDED)) await removeTree(join(this.#directory, id));
      if (!ID.test(id)) continue;
      const names = await this.#names(join(this.#directory, id));
      if (names.includes(FILE_NAME)) sessions.push(await this.#read(join(this.#directory, id, FILE_NAME), id));
      else if (names.every((name) => name.startsWith('.temporary-'))) await removeTree(join(this.#directory, id));
    }
    return sessions;
  }

  async #read(path: string, id: string): Promise<Session> {
    const { format, version, ...session } = await readStored(path);
    if (format !== 'understudy-session' || version !== VERSION || session.id !== id) {
      throw unreadable(path);
    }
    return session;
  }

  async #names(directory: string): Promise<string[]> {
    try {
      return (await readdir(directory)).sort();
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return [];
      throw storageError(error, 'list', directory);
    }
  }
}

async function readStored(path: string): Promise<StoredSession> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw storageError(error, 'read', path);
  }
  try {
    return JSON.parse(text) as StoredSession;
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

function unreadable(path: string, cause?: unknown): ApplianceError {
  return new ApplianceError('REPOSITORY_FORMAT', `${path} is not a session that this version understands`, {
    cause,
    details: { path },
    hint: 'It is the record of a booted machine. To go on without that machine, move its directory out of `sessions`.',
  });
}
