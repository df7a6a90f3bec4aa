// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Journal } from '../volume/journal.ts';
import type { Core } from './core.ts';

/** Why a journal will not be opened again. */
const LOST_JOURNAL = ['WRITE_LOG_CORRUPT', 'REPOSITORY_KEY', 'REPOSITORY_FORMAT', 'BAD_ARGUMENT'] as const;

/** What keeps a point from being deleted, in words. */
export function usersOf(core: Core, point: RecoveryPoint): Promise<string[]> {
  return new PointUsers(core).of(point);
}

/** What keeps points from being deleted, in words, for many of them: each journal is read once. */
export class PointUsers {
  readonly #core: Core;
  readonly #journals = new Map<MachineId, Promise<JournalUse>>();

  constructor(core: Core) {
    this.#core = core;
  }

  async of(point: RecoveryPoint): Promise<string[]> {
    const { recover, continuous } = this.#core;
    const users = [...recover.usedBy(point.id), ...continuous.usedBy(point.id)];
    if (users.length > 0 || point.journal === undefined) return users;
    const { id, machine } = point;
    const reading = this.#journals.get(machine.id) ?? usesOf(this.#core, machine.id);
    this.#journals.set(machine.id, reading);
    const use = await reading;
    if (use.problem !== undefined) {
      return [`the journal of ${machine.name}, perhaps: it cannot be opened now (${use.problem})`];
    }
    return use.resting.has(id) ? [`the journal of ${machine.name}, whose moments after it rest on it`] : [];
  }
}

/** A machine may have two journals, that of its protection and that of a machine booted with its identity, which hides it. */
async function usesOf({ journalOf, continuous }: Core, machineId: MachineId): Promise<JournalUse> {
  const shown = await journalUse(journalOf, machineId);
  const hidden = await journalUse((id) => continuous.journalOf(id), machineId);
  const problem = shown.problem ?? hidden.problem;
  return { resting: shown.resting.union(hidden.resting), ...(problem === undefined ? {} : { problem }) };
}

interface JournalUse {
  /** Points on which moments rest that the journal offers. */
  readonly resting: ReadonlySet<string>;
  readonly problem?: string;
}

/**
 * The points on which moments of a journal rest: without them those could not be recovered any more, and no other point can
 * stand for it. A journal that is damaged for good offers none; one that cannot be opened now may, later.
 */
async function journalUse(journalOf: Core['journalOf'], machineId: MachineId): Promise<JournalUse> {
  let journal: Journal | undefined;
  try {
    journal = await journalOf(machineId);
  } catch (error) {
    if (hasCode(error, ...LOST_JOURNAL)) return { resting: new Set() };
    if (!(error instanceof ApplianceError)) throw error;
    return { resting: new Set(), problem: error.message };
  }
  if (journal === undefined) return { resting: new Set() };
  const { folds } = journal;
  const { stretches } = await journal.timeline({ buckets: 0 });
  const resting = folds.filter(({ sequence }, n) => {
    const end = folds[n + 1]?.sequence ?? Number.POSITIVE_INFINITY;
    return stretches.some((one) => one.end.sequence > sequence && one.begin.sequence < end);
  });
  return { resting: new Set(resting.map(({ pointId }) => pointId)) };
}
