// SPDX-License-Identifier: Apache-2.0
import { type Bookmarked, bookmarkFrozen } from '../cbt/bookmark.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import { type MachineId, parseMachineId } from '../core/ids.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Journal } from '../volume/journal.ts';
import type { Moment } from '../volume/journal-event.ts';
import type { RecoverParts } from './context.ts';
import type { SessionDisks } from './session-disks.ts';
import type { SessionHistory } from './session-history.ts';
import type { SessionMachines } from './session-machines.ts';
import type { SessionRegistry } from './session-registry.ts';
import { historyIdOf, type Session } from './session-store.ts';
import type { JournalLayer, JournalSource } from './state-disks.ts';

/** How the protection of a booted machine stands. */
export interface BootedProtection {
  readonly session: Session;
  /** As which machine its recovery points are listed. */
  readonly historyId: MachineId;
  readonly listedName: string;
  /** Every write is kept as a moment now. */
  readonly isProtected: boolean;
  /** Whether this process serves its disks. */
  readonly isServed: boolean;
  /** libvirt's word, or as in `BootedMachine`. */
  readonly state: string;
  /** Undefined, with the reason, when it cannot be opened. */
  readonly history: SessionHistory | undefined;
  readonly problem: string | undefined;
}

/** The histories of booted machines, as those of protected ones are asked about: timeline, moments, bookmarks, points. */
export class BootedHistories {
  readonly #parts: RecoverParts;
  readonly #registry: SessionRegistry;
  readonly #disks: SessionDisks;
  readonly #machines: SessionMachines;

  constructor(parts: RecoverParts, registry: SessionRegistry, disks: SessionDisks, machines: SessionMachines) {
    this.#parts = parts;
    this.#registry = registry;
    this.#disks = disks;
    this.#machines = machines;
  }

  /** The session that a name, that of its points, or a machine's id means. */
  find(target: string): Session | undefined {
    const id = target.toLowerCase();
    const isMeant = (session: Session): boolean =>
      session.machineId === id || historyIdOf(session) === id || this.listedNameOf(session) === target;
    const sessions = this.#registry.all();
    return sessions.find(({ name }) => name === target) ?? sessions.find(isMeant);
  }

  /** The name under which its points are listed. */
  listedNameOf(session: Session): string {
    return this.#registry.base(session)?.machine.name ?? session.name;
  }

  /** How many recovery points there are of it. */
  async pointsOf(session: Session): Promise<number> {
    const id = historyIdOf(session);
    return (await this.#parts.catalog.points()).filter(({ machine }) => machine.id === id).length;
  }

  /** The journal of a machine whose points are listed under an id; undefined for any other. Errors as `Journal.open`. */
  async journalOf(id: MachineId): Promise<Journal | undefined> {
    const session = this.#registry.all().find((one) => historyIdOf(one) === id);
    return session === undefined ? undefined : (await this.#disks.history(session)).journal;
  }

  /** As `JournalSource.openLayer`; undefined for the journal of another machine. */
  async openLayer(part: Parameters<JournalSource['openLayer']>[0]): Promise<JournalLayer | undefined> {
    const journal = await this.journalOf(part.machineId);
    return journal?.logId === part.logId ? journal.openView(part.after, part.upTo) : undefined;
  }

  /** Every booted machine. */
  async protection(): Promise<BootedProtection[]> {
    const all: BootedProtection[] = [];
    for (const session of this.#registry.all()) {
      const isServed = this.#disks.servedHistory(session) !== undefined;
      const state = await this.#machines.stateOf(session);
      const listedName = this.listedNameOf(session);
      const facts = { session, historyId: historyIdOf(session), listedName, isServed, state };
      try {
        const history = await this.#disks.history(session);
        all.push({ ...facts, isProtected: isServed && history.log.isOpen, history, problem: undefined });
      } catch (error) {
        all.push({ ...facts, isProtected: false, history: undefined, problem: toError(error).message });
      }
    }
    return all;
  }

  /** A recovery point of the newest state, now; undefined for what is no booted machine. Errors as `SessionHistory.foldNow`. */
  async foldNow(target: string, connect: string): Promise<RecoveryPoint | undefined> {
    const session = this.find(target);
    if (session?.connect !== connect) return undefined;
    return (await this.#disks.history(session)).foldNow('asked for by the operator');
  }

  /**
   * Names this moment of a booted machine; see `bookmarkFrozen`. Undefined for what is none.
   * @throws ApplianceError DOMAIN_BUSY while it does not run, LOCKED, those of the journal
   */
  async bookmark(
    target: string,
    name: string,
  ): Promise<(Bookmarked<Moment> & { readonly machine: RecoveryPoint['machine'] }) | undefined> {
    const session = this.find(target);
    if (session === undefined) return undefined;
    return this.#registry.exclusively(session.name, async () => {
      const history = this.#disks.servedHistory(session);
      if (history?.log.isOpen !== true) {
        throw new ApplianceError('DOMAIN_BUSY', `${session.name} does not run, so there is no state to name now`);
      }
      const { connect: connectUri, machineId } = session;
      const connection = await this.#parts.connectLibvirt(connectUri);
      const bookmarked = await bookmarkFrozen({
        guest: await connection.domainByUuid(machineId),
        marker: this.#parts.freezeMarker({ connectUri, machine: parseMachineId(machineId) }),
        name,
        mark: (text, consistency) => history.journal.bookmark(text, consistency),
      });
      return { ...bookmarked, machine: history.base.machine };
    });
  }
}
