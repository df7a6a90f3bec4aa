// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { PointUse } from './point-use.ts';
import type { Session, SessionPhase, SessionStore } from './session-store.ts';

/** The sessions that there are: what the store holds, and with each its claim on the point. */
export class SessionRegistry {
  readonly #store: SessionStore;
  readonly #use: PointUse;
  readonly #entries = new Map<string, { readonly session: Session; readonly endUse: () => void }>();
  /** Names that an operation works on. */
  readonly #busy = new Set<string>();

  constructor(store: SessionStore, use: PointUse) {
    this.#store = store;
    this.#use = use;
  }

  /** @throws ApplianceError IO_FAILED, REPOSITORY_FORMAT */
  async load(): Promise<void> {
    for (const session of await this.#store.load()) this.#remember(session);
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

  /** Removes everything that is stored of the session; its point is free then. @throws ApplianceError IO_FAILED */
  async forget(session: Session): Promise<void> {
    await this.#store.remove(session);
    this.#entries.get(session.name)?.endUse();
    this.#entries.delete(session.name);
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

  /** True while an operation works on the name. */
  isBusy(name: string): boolean {
    return this.#busy.has(name);
  }

  #remember(session: Session): void {
    const known = this.#entries.get(session.name);
    const endUse = known?.endUse ?? this.#use.begin(session.point, `booted machine ${session.name}`);
    this.#entries.set(session.name, { session, endUse });
  }
}
