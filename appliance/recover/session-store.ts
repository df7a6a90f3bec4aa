// SPDX-License-Identifier: Apache-2.0
import { createHash, randomBytes } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectoryDurably, renameDurably, writeDurably } from '../core/durable-file.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import { type MachineId, type PointId, parseMachineId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import type { QemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { JournalPoint } from '../volume/fold-journal.ts';
import type { JournalMoment } from '../volume/recoverable-state.ts';
import type { MigrationRecord } from './migration-record.ts';
import { removeTree } from './point-exports.ts';
import type { SpareWishes } from './standby/spare-definition.ts';

/**
 * Where a session is. What a crash leaves in one of the middle states is brought to an end at the next start:
 *
 *   starting → running → stopping → kept → resuming → running → discarding → (gone)
 *   running → rewinding → running
 *   starting: everything is removed · resuming, stopping: kept · discarding: everything is removed · rewinding: it runs again,
 *   in the old state or in the new one
 */
export type SessionPhase = 'starting' | 'resuming' | 'running' | 'rewinding' | 'stopping' | 'kept' | 'discarding';

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
  /** While it is rewound: its disks are in the new state when their base is this recovery point. */
  readonly rewind?: { readonly pointId: PointId };
}

interface StoredSession extends Session {
  readonly format: 'understudy-session';
  readonly version: number;
}

interface StoredBase {
  readonly format: 'understudy-session-base';
  readonly version: number;
  readonly point: JournalPoint;
}

const FILE_NAME = 'session.json';
const BASE_NAME = 'base.json';
const VERSION = 1;
/** End of the name of a directory that is being removed. */
const DISCARDED = '.discarded';
const ID = /^[0-9a-f]{16}$/;

/**
 * The sessions of a state directory, one directory each under `sessions/`: `session.json`, `base.json`, the journal in
 * `log/`, and `nvram`. The first is written before anything else of the session is made, and the directory goes as one, so
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

  /**
   * What the disks of the session are beneath its journal from now on: a recovery point that holds everything up to a record.
   * Whole, for the same reason as the session's point. In a file of its own: whoever changes the session knows nothing of it.
   * Durable when settled. @throws ApplianceError NO_SPACE, IO_FAILED
   */
  async putBase(session: Session, point: JournalPoint): Promise<void> {
    const stored: StoredBase = { format: 'understudy-session-base', version: VERSION, point };
    await writeDurably(join(this.directoryOf(session), BASE_NAME), `${JSON.stringify(stored, null, 2)}\n`);
  }

  /** Undefined before the first. @throws ApplianceError IO_FAILED, REPOSITORY_FORMAT */
  async base(session: Session): Promise<JournalPoint | undefined> {
    const path = join(this.directoryOf(session), BASE_NAME);
    if (!(await this.#names(this.directoryOf(session))).includes(BASE_NAME)) return undefined;
    const { format, version, point } = await readStored<StoredBase>(path);
    if (format !== 'understudy-session-base' || version !== VERSION) throw unreadable(path);
    return point;
  }

  /** Bytes of its journal. @throws ApplianceError IO_FAILED */
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
    const { format, version, ...session } = await readStored<StoredSession>(path);
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

/**
 * Under which machine the recovery points of a session are listed: its domain's, unless that is the original's, whose points
 * are another history.
 */
export function historyIdOf({ id, machineId, point }: Session): MachineId {
  const own = parseMachineId(machineId);
  if (own !== point.machine.id) return own;
  const digits = createHash('sha256').update(`understudy session ${id}`).digest('hex');
  const part = (from: number, to: number): string => digits.slice(from, to);
  return parseMachineId(`${part(0, 8)}-${part(8, 12)}-8${part(12, 15)}-8${part(15, 18)}-${part(18, 30)}`);
}

/** What the uses of points by a session are called. */
export function useBy({ name }: Session): string {
  return `booted machine ${name}`;
}

async function readStored<Stored>(path: string): Promise<Stored> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw storageError(error, 'read', path);
  }
  try {
    return JSON.parse(text) as Stored;
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
