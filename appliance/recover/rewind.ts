// SPDX-License-Identifier: Apache-2.0
import { throwIfAborted } from '../block/pipeline.ts';
import { writeDurably } from '../core/durable-file.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import { newPointId } from '../core/ids.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import { foldJournal, isOfJournal, type JournalPoint } from '../volume/fold-journal.ts';
import type { JournalView } from '../volume/journal-view.ts';
import type { JournalMoment, RecoverableState } from '../volume/recoverable-state.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import { findAttachment, NVRAM_ATTACHMENT } from './point-content.ts';
import type { SessionDisks } from './session-disks.ts';
import { type FoldingHold, NO_TRACKER, type SessionHistory } from './session-history.ts';
import type { SessionMachines } from './session-machines.ts';
import type { SessionRegistry } from './session-registry.ts';
import { historyIdOf, type Session, type SessionStore } from './session-store.ts';

export interface RewindReport {
  readonly name: string;
  readonly machineId: string;
  /** The recovery point that its disks begin with now. */
  readonly point: string;
  /** What it was rewound to: a moment of its journal, or null for the recovery point `target` itself. */
  readonly moment: JournalMoment | null;
  readonly target: string;
  /** The name of the last moment before; rewinding to it undoes this. */
  readonly bookmark: string;
  /** A recovery point of that moment. */
  readonly pointBefore: string;
  /** From the end of the machine to its start. */
  readonly downMs: number;
  readonly durationMs: number;
}

export interface RewindParts {
  readonly parts: RecoverParts;
  readonly store: SessionStore;
  readonly registry: SessionRegistry;
  readonly disks: SessionDisks;
  readonly machines: Pick<SessionMachines, 'checkDefined' | 'powerOff' | 'powerOn'>;
}

type Rewinding = Session & { readonly rewind: NonNullable<Session['rewind']> };

const STEPS = 3;

/**
 * Gives a booted machine back a state that it had. Its journal only ever grows: behind everything in it a place is made that
 * a recovery point of the old state holds, which becomes the base of its disks. What it wrote since stays where it is: in
 * the timeline, under a bookmark, and as a recovery point.
 *
 * The step that counts is `base.json` naming that point. Before it the disks are what they were, after it they are the old
 * state, and there is nothing in between.
 */
export class Rewinds {
  readonly #with: RewindParts;

  constructor(given: RewindParts) {
    this.#with = given;
  }

  /**
   * Settles when the machine runs again. `state` is of its own history.
   * @throws ApplianceError DOMAIN_WRONG_STATE (stopped), MIGRATION_UNFINISHED, BAD_ARGUMENT (a state of another machine), LOCKED
   *   (its changes are being copied), DOMAIN_NOT_FOUND, MOMENT_NOT_FOUND, those of repository and journal: then it is as it was.
   *   BOOT_FAILED: it is in the new state, and does not run
   */
  async rewind(session: Session, state: RecoverableState, context: RecoverContext): Promise<RewindReport> {
    const { parts, disks, machines } = this.#with;
    const startedMs = parts.clock.elapsedMs();
    const base = checkRewind(session, state);
    await disks.open(session, context);
    const history = await disks.history(session);
    if (history.isHeld) throw new ApplianceError('LOCKED', `what ${session.name} has written is being copied`);
    using folding = await history.holdFolding();
    await using layer = await openLayer(history, base, state.moment);
    const step = (phase: string, done: number): void => {
      throwIfAborted(context.signal);
      context.onProgress({ phase, done, total: STEPS, unit: 'items' });
    };
    await machines.checkDefined(session);
    // Most of what is to be kept is folded while the machine runs.
    step('keeping the state before', 0);
    await folding.foldNow('before a rewind');
    step('switching the machine off', 1);
    const offMs = parts.clock.elapsedMs();
    const rewinding = await this.#begin(session);
    let done: Pick<RewindReport, 'bookmark' | 'pointBefore'>;
    try {
      done = await this.#replace(rewinding, { history, folding, base, layer, label: labelOf(state) }, step);
    } catch (error) {
      await this.#afterFailure(rewinding, error);
      throw error;
    }
    await this.finish(rewinding);
    const elapsedMs = parts.clock.elapsedMs();
    return {
      name: session.name,
      machineId: session.machineId,
      point: rewinding.rewind.pointId,
      moment: state.moment ?? null,
      target: state.point.id,
      ...done,
      downMs: Math.round(elapsedMs - offMs),
      durationMs: Math.round(elapsedMs - startedMs),
    };
  }

  /** After a crash, or at the end of a rewind: whichever state it has, it is whole, and the machine runs. A sentence. */
  async finish(session: Session): Promise<string> {
    const { disks, machines, registry } = this.#with;
    const { name } = session;
    const { session: settled, isRewound } = await this.settle(session);
    try {
      // What failed behind the step that counts is told to the journal when it is opened.
      const { base } = await disks.history(settled);
      if (isRewound && base.id !== session.rewind?.pointId) await disks.closeHistory(settled);
      await disks.open(settled);
      await (await disks.history(settled)).log.begin();
      await machines.powerOn(settled);
    } catch (error) {
      if (!isRewound || !(error instanceof ApplianceError)) throw error;
      throw new ApplianceError('BOOT_FAILED', `${name} is rewound, and cannot be started: ${error.message}`, {
        cause: error,
        hint: `\`understudy stop ${name}\` keeps it as it is now, and \`understudy boot\` starts it.`,
      });
    } finally {
      await registry.put({ ...settled, phase: 'running' });
    }
    return isRewound ? `${name} is rewound, and runs.` : `The rewind of ${name} was interrupted; it goes on as it was.`;
  }

  /**
   * Finds out which state the disks have, and brings the rest into line with it, without starting anything: the session as it
   * is then, to be stored by the caller. Nothing happens to one that is not being rewound. Errors of repository and catalog; NO_SPACE, IO_FAILED.
   */
  async settle(session: Session): Promise<{ readonly session: Session; readonly isRewound: boolean }> {
    if (session.rewind === undefined) return { session, isRewound: false };
    const { rewind, ...rest } = session;
    const base = await this.#with.store.base(session);
    const isRewound = base?.id === rewind.pointId;
    if (isRewound) await this.#restoreNvram(session, base);
    else await this.#removePoint(session, rewind.pointId);
    return { session: rest, isRewound };
  }

  async #begin(session: Session): Promise<Rewinding> {
    const rewinding: Rewinding = { ...session, phase: 'rewinding', rewind: { pointId: newPointId() } };
    await this.#with.registry.put(rewinding);
    return rewinding;
  }

  async #replace(
    session: Rewinding,
    to: {
      readonly history: SessionHistory;
      readonly folding: FoldingHold;
      readonly base: JournalPoint;
      readonly layer: JournalView | undefined;
      readonly label: string;
    },
    step: (phase: string, done: number) => void,
  ): Promise<Pick<RewindReport, 'bookmark' | 'pointBefore'>> {
    const { machines, disks, parts } = this.#with;
    const { history, folding, base, layer, label } = to;
    const { journal, log } = history;
    await machines.powerOff(session);
    // Whatever its QEMU had sent is in the journal then, and nothing comes after it.
    await disks.remove(session);
    await log.begin();
    const bookmark = `before the rewind to ${label}`;
    await journal.bookmark(bookmark, 'crash-consistent');
    const { id: pointBefore } = await folding.foldNow('the state before a rewind');
    await log.end('it was switched off for a rewind');
    step('bringing the state back', 2);
    const upTo = await journal.markMoment();
    await journal.flush();
    const { repository, catalog, clock } = parts;
    const point = await foldJournal({
      repository,
      catalog,
      clock,
      base,
      newest: await history.newest(),
      layer,
      upTo,
      reason: `rewound to ${label}`,
      attachments: undefined,
      tracker: NO_TRACKER,
      signal: new AbortController().signal,
      id: session.rewind.pointId,
    });
    await history.adopt(point);
    return { bookmark, pointBefore };
  }

  /** It runs again as it was, or is rewound and the caller hears why it is not told so. */
  async #afterFailure(session: Rewinding, because: unknown): Promise<void> {
    try {
      await this.finish(session);
    } catch (error) {
      throw new ApplianceError('BOOT_FAILED', `${session.name} was not rewound, or cannot be started again`, {
        cause: new AggregateError([because, error], `${toError(because).message}; ${toError(error).message}`),
        hint: `\`understudy stop ${session.name}\` keeps it as it is now, and \`understudy boot\` starts it.`,
      });
    }
  }

  /** The variables of the firmware are those of the point, as after any boot from it. */
  async #restoreNvram(session: Session, base: RecoveryPoint): Promise<void> {
    const { parts, store } = this.#with;
    const bytes = await findAttachment(parts.repository, base, NVRAM_ATTACHMENT);
    if (bytes !== undefined) await writeDurably(store.nvramPathOf(session), bytes);
  }

  /** A point of a rewind that did not come about would pass for the newest state. */
  async #removePoint(session: Session, pointId: RecoveryPoint['id']): Promise<void> {
    const { repository, catalog } = this.#with.parts;
    const ref = { machineId: historyIdOf(session), pointId };
    await repository.guards.refuseDeletion(ref);
    await catalog.deletePoint(pointId);
    if (await repository.manifests.has(ref)) await repository.manifests.purge(ref);
  }
}

/** The base of the state, as a point of the machine's own journal. */
function checkRewind(session: Session, { point }: RecoverableState): JournalPoint {
  const { name } = session;
  if (session.migration !== undefined) {
    throw new ApplianceError('MIGRATION_UNFINISHED', `${name} is being moved to production storage`, {
      hint: `\`understudy migrate ${name}\` finishes that.`,
    });
  }
  if (session.phase !== 'running') {
    throw new ApplianceError('DOMAIN_WRONG_STATE', `${name} is stopped; a machine is rewound while it is booted`, {
      hint: 'Start it with `understudy boot` first.',
    });
  }
  if (point.machine.id === historyIdOf(session) && isOfJournal(point)) return point;
  throw new ApplianceError('BAD_ARGUMENT', `${point.id} is no state of the booted machine ${name}`, {
    hint: `\`understudy timeline ${name}\` shows its states; to another point one goes with \`understudy boot\`.`,
  });
}

async function openLayer(
  { journal }: SessionHistory,
  base: JournalPoint,
  moment: JournalMoment | undefined,
): Promise<JournalView | undefined> {
  if (moment === undefined) return undefined;
  if (moment.logId === journal.logId) return journal.openView(base.journal.sequence, moment.sequence);
  throw new ApplianceError('MOMENT_NOT_FOUND', 'the journal of that moment is gone');
}

function labelOf({ point, moment }: RecoverableState): string {
  if (moment?.bookmark !== null && moment?.bookmark !== undefined) return moment.bookmark.slice(0, LABEL_CHARACTERS);
  return moment === undefined ? point.createdAt : new Date(Math.floor(moment.timeUs / 1000)).toISOString();
}

/** Of a bookmark's name: one that is rewound to again and again would become too long. */
const LABEL_CHARACTERS = 100;
