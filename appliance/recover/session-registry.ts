// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { PointId } from '../core/ids.ts';
import type { JournalPoint } from '../volume/fold-journal.ts';
import type { PointUse } from './point-use.ts';
import { type Session, type SessionPhase, type SessionStore, useBy } from './session-store.ts';

/** The sessions that there are: what the store holds, and with each its claims on the points that it needs. */
export class SessionRegistry {
  readonly #store: SessionStore;
  readonly #use: PointUse;
  readonly #entries = new Map<string, { readonly session: Session; readonly endUse: () => void }>();
  readonly #bases = new Map<string, { readonly base: JournalPoint; readonly endUse: () => void }>();
  /** Names that an operation works on. */
  readonly #busy = new Set<string>();

  constructor(store: SessionStore, use: PointUse) {
    this.#store = store;
    this.#use = use;
  }

  /** @throws ApplianceError IO_FAILED, REPOSITORY_FORMAT */
  async load(): Promise<void> {
    for (const session of await this.#store.load()) {
      this.#remember(session);
      const base = await this.#store.base(session);
      if (base !== undefined) this.#useBase(session, base);
    }
  }

  all(): Session[] {
    return [...this.#entries.values()].map(({ session }) => session);
  }

  find(name: string): Session | undefined {
    return this.#entries.get(name)?.session;
  }

  /** Stores the session as it is now; durable when settled. @throws ApplianceError NO_SPACE, IO_FAILED */
  async put(session: Session): Promise<void> {
    await this.#store.put(session);
    this.#remember(session);
  }

  /** Stores it in another phase, and settles with it. Errors as `put`. */
  async move(session: Session, phase: SessionPhase): Promise<Session> {
    const moved = { ...session, phase };
    await this.put(moved);
    return moved;
  }

  /**
   * Stores what lies beneath the session's journal from now on, which is in use in place of what lay there before; durable
   * when settled. @throws ApplianceError NO_SPACE, IO_FAILED
   */
  async putBase(session: Session, base: JournalPoint): Promise<void> {
    await this.#store.putBase(session, base);
    this.#useBase(session, base);
  }

  /** What lies beneath the session's journal; undefined before the first. */
  base(session: Session): JournalPoint | undefined {
    return this.#bases.get(session.id)?.base;
  }

  /** Removes everything that is stored of the session; its points are free then. @throws ApplianceError IO_FAILED */
  async forget(session: Session): Promise<void> {
    await this.#store.remove(session);
    this.#entries.get(session.name)?.endUse();
    this.#entries.delete(session.name);
    this.#bases.get(session.id)?.endUse();
    this.#bases.delete(session.id);
  }

  /** Runs one operation at a time on a name. @throws ApplianceError LOCKED, and what `work` throws */
  async exclusively<T>(name: string, work: () => Promise<T>): Promise<T> {
    if (this.#busy.has(name)) throw new ApplianceError('LOCKED', `another operation works on ${name}`);
    this.#busy.add(name);
    try {
      return await work();
    } finally {
      this.#busy.delete(name);
    }
  }

  /** True when something else than this session uses a point. */
  isUsedByOthers(session: Session, point: PointId): boolean {
    return this.#use.usedBy(point).some((by) => by !== useBy(session));
  }

  /** True while an operation works on the name. */
  isBusy(name: string): boolean {
    return this.#busy.has(name);
  }

  #useBase(session: Session, base: JournalPoint): void {
    const endUse = this.#use.begin(base, useBy(session));
    this.#bases.get(session.id)?.endUse();
    this.#bases.set(session.id, { base, endUse });
  }

  #remember(session: Session): void {
    const known = this.#entries.get(session.name);
    const endUse = known?.endUse ?? this.#use.begin(session.point, useBy(session));
    this.#entries.set(session.name, { session, endUse });
  }
}
