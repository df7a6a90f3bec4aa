// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import { imageMarks } from '../../cbt/image-marks.ts';
import { ApplianceError, systemErrorCode } from '../../core/errors.ts';
import { storageError } from '../../core/file-system.ts';
import { invariant } from '../../core/invariant.ts';
import { readMachine } from '../../hypervisor/libvirt/read-machine.ts';
import type { RecoverContext } from '../context.ts';
import { replaceContent } from '../replace-content.ts';
import type { SessionHistory } from '../session-history.ts';
import type { Session } from '../session-store.ts';
import { foldedRanges } from './folded-ranges.ts';
import { checkDisks, InPlaceDisks } from './in-place-disks.ts';
import { bootedSpare, isOff, type Original, requireOriginal, switchOff } from './original.ts';
import { type Copied, ReturnCopy } from './return-copy.ts';
import { defineSpare } from './spare.ts';
import type { StandbyParts } from './standby-parts.ts';
import { type Standby, standing, type Takeover } from './standby-record.ts';

export interface FailbackRequest {
  /** Pull the plug of machines that do not shut down, and of an original that runs again. */
  readonly isForced: boolean;
}

export interface FailbackReport {
  readonly machine: string;
  readonly name: string;
  /** `changes`: what the spare wrote, and nothing else; `everything`: both disks were compared. */
  readonly method: 'changes' | 'everything';
  /** Why everything had to be compared; empty otherwise. */
  readonly reason: string;
  readonly rounds: number;
  /** What the spare had changed, each place once. */
  readonly changedBytes: number;
  /** What was sent to the original's disks over all rounds, zeroes apart. */
  readonly copiedBytes: number;
  readonly zeroedBytes: number;
  readonly verifiedBytes: number;
  /** From the spare's end to the original's start. */
  readonly downMs: number;
  readonly durationMs: number;
  /** A point of the original as it was before its disks were written. */
  readonly pointBefore: string;
}

interface Spare {
  readonly session: Session;
  readonly history: SessionHistory;
  /** Undefined when it is not defined any more. */
  readonly machine: Original | undefined;
}

const MAX_ROUNDS = 6;
/** A round that copied less than this is followed by the last one. */
const SMALL_ROUND_BYTES: number = 4 * 1024 * 1024;

/**
 * Brings what the spare has written back to the original's disks and starts the original. While rounds of copying go on the
 * spare runs; it is shut down for the last. From the first write until everything is there and verified, the original's disks
 * are a mixture, and the record says so.
 */
export class Failback {
  readonly #standbys: StandbyParts;
  readonly #context: RecoverContext;

  constructor(standbys: StandbyParts, context: RecoverContext) {
    this.#standbys = standbys;
    this.#context = context;
  }

  /**
   * @throws ApplianceError STANDBY_BUSY (there is nothing to return from), DOMAIN_WRONG_STATE (the original runs), TIMED_OUT (the
   *   spare does not shut down), VERIFY_FAILED, TARGET_CHANGED, TARGET_TOO_SMALL, NOT_SUPPORTED, ABORTED. The spare keeps what it has
   */
  async run(standby: Standby, request: FailbackRequest): Promise<FailbackReport> {
    const { parts } = this.#standbys;
    const startedMs = parts.clock.elapsedMs();
    const { takeover } = standby;
    if (takeover === null || !['running', 'returning', 'returned'].includes(takeover.phase)) {
      throw new ApplianceError('STANDBY_BUSY', standing(standby), {
        hint: `\`understudy failover ${standby.machine.name}\` lets the spare take over.`,
      });
    }
    const original = await requireOriginal(parts, standby);
    if (takeover.phase === 'returned') {
      const downMs = await this.#complete(standby, original, undefined);
      return { ...nothingCopied(standby), downMs, durationMs: Math.round(parts.clock.elapsedMs() - startedMs) };
    }
    const prepared = await this.#prepare(standby, original, request);
    const { method, reason } = prepared;
    const copied = await this.#copy(prepared.standby, original, { method, isForced: request.isForced });
    const returned = await this.#put(prepared.standby, { ...takeoverOf(prepared.standby), phase: 'returned' });
    const downMs = await this.#complete(returned, original, copied.offMs);
    const { offMs: _, ...figures } = copied;
    return {
      machine: standby.machine.name,
      name: standby.name,
      method,
      reason,
      ...figures,
      downMs,
      durationMs: Math.round(parts.clock.elapsedMs() - startedMs),
      pointBefore: takeoverOf(returned).pointBefore ?? '',
    };
  }

  /** Everything that can be refused is, and what the original holds is kept, before the first byte is written. */
  async #prepare(
    standby: Standby,
    original: Original,
    { isForced }: FailbackRequest,
  ): Promise<{ standby: Standby; method: FailbackReport['method']; reason: string }> {
    const { parts, ports } = this.#standbys;
    let takeover = takeoverOf(standby);
    const { session } = await this.#spare(standby);
    const { domain } = original;
    if (!(await isOff(domain)) && !isForced) {
      throw new ApplianceError('DOMAIN_WRONG_STATE', `${domain.name} runs, and so does its spare`, {
        hint: 'What the original has written since the failover is lost in a failback. Shut it down, or use --force; a point of it is taken before.',
      });
    }
    if (takeover.original === null) {
      takeover = { ...takeover, original: { wasRunning: true, autostart: await domain.autostart() } };
      await this.#put(standby, takeover);
    }
    await domain.setAutostart(false);
    await switchOff(original, { isForced, clock: parts.clock, signal: this.#context.signal });
    await checkDisks(original, session.point.disks);
    const reason = await this.#whyEverything(takeover, session, original);
    if (reason === '')
      return this.#returning(standby, { ...takeover, pointBefore: session.point.id }, 'changes', reason);
    this.#context.onNotice(`Everything is compared: ${reason}.`);
    const pointBefore = takeover.pointBefore ?? (await ports.backup(standby, this.#context)).id;
    return this.#returning(standby, { ...takeover, pointBefore }, 'everything', reason);
  }

  async #returning(
    standby: Standby,
    takeover: Takeover,
    method: FailbackReport['method'],
    reason: string,
  ): Promise<{ standby: Standby; method: FailbackReport['method']; reason: string }> {
    // From here on nothing proves what the original's disks hold.
    const stored = await this.#put(standby, { ...takeover, phase: 'returning', marks: null });
    return { standby: stored, method, reason };
  }

  /** Empty when the original's disks still hold exactly what the spare started from. */
  async #whyEverything(takeover: Takeover, session: Session, { connection, domain }: Original): Promise<string> {
    if (takeover.phase === 'returning') return 'an earlier failback was interrupted while it wrote';
    if (!takeover.isPlanned)
      return 'the original could not be reached at the failover, so what it wrote last is not known';
    if (takeover.marks === null || session.moment !== undefined || takeover.state?.point !== session.point.id) {
      return 'the spare did not start from what the disks of the original held';
    }
    const marks = await imageMarks(await readMachine(connection, domain));
    return marks === takeover.marks ? '' : 'somebody touched the images of the original since the failover';
  }

  async #copy(
    standby: Standby,
    original: Original,
    how: { readonly method: FailbackReport['method']; readonly isForced: boolean },
  ): Promise<Copied & { readonly rounds: number; readonly offMs: number }> {
    const { parts } = this.#standbys;
    const { session, history, machine } = await this.#spare(standby);
    await using targets = await InPlaceDisks.open(parts, original, session.point.disks);
    // What is newer than a round is found in the live index, which has to keep it.
    using _ = await history.holdFolding();
    const folded = await foldedRanges(parts.repository, session.point, history.base);
    const copy = new ReturnCopy({ disks: session.point.disks, history, folded, targets, context: this.#context });
    if (how.method === 'everything') await copy.everything();
    let rounds = how.method === 'everything' ? 1 : 0;
    const isRunning = machine !== undefined && !(await isOff(machine.domain));
    while (isRunning && rounds < MAX_ROUNDS) {
      rounds += 1;
      if ((await copy.round()) < SMALL_ROUND_BYTES) break;
    }
    this.#context.onProgress({ phase: `shutting ${standby.name} down`, done: 0, total: 0, unit: 'bytes' });
    if (machine !== undefined) {
      await switchOff(machine, { isForced: how.isForced, clock: parts.clock, signal: this.#context.signal });
    }
    const offMs = parts.clock.elapsedMs();
    const writtenBytes = history.log.writtenBytes;
    await copy.round();
    const copied = await copy.verify();
    const isStillOff = machine === undefined || (await isOff(machine.domain));
    if (!isStillOff || history.log.writtenBytes !== writtenBytes) {
      throw new ApplianceError(
        'DOMAIN_WRONG_STATE',
        `${standby.name} was started during the last round of the failback`,
        {
          hint: `Run \`understudy failback ${standby.machine.name}\` again.`,
        },
      );
    }
    await this.#returnNvram(session, original);
    await targets.close();
    return { ...copied, rounds: rounds + 1, offMs };
  }

  async #returnNvram(session: Session, { connection, domain }: Original): Promise<void> {
    const path = this.#standbys.machines.nvramPathOf(session);
    const { nvramPath } = (await readMachine(connection, domain)).firmware;
    if (nvramPath === null) return;
    try {
      await replaceContent(nvramPath, await readFile(path));
    } catch (error) {
      if (systemErrorCode(error) !== 'ENOENT') throw storageError(error, 'read', path);
    }
  }

  /** The original takes its place again, and the spare its own. Settles with how long neither ran. */
  async #complete(standby: Standby, original: Original, offMs: number | undefined): Promise<number> {
    const { parts, machines, store, ports } = this.#standbys;
    const takeover = takeoverOf(standby);
    const { domain } = original;
    // Undefines the spare's domain, so that nobody starts it beside the original; its log stays until the original runs.
    if (machines.find(standby.name) !== undefined) await machines.stop(standby.name, false);
    if (await isOff(domain)) await domain.start();
    const downMs = offMs === undefined ? 0 : Math.round(parts.clock.elapsedMs() - offMs);
    if (takeover.original?.autostart === true) await domain.setAutostart(true);
    if (machines.find(standby.name) !== undefined) await machines.stop(standby.name, true);
    const { point } = await ports.stateOf(`${standby.machine.id}@latest`);
    const { standby: defined } = await defineSpare(parts, standby, point);
    await store.put({ ...defined, takeover: null });
    return downMs;
  }

  async #spare(standby: Standby): Promise<Spare> {
    const { parts, machines } = this.#standbys;
    const found = machines.find(standby.name);
    if (found?.history === undefined) {
      throw new ApplianceError('MACHINE_NOT_FOUND', `the disks of ${standby.name} are not served`, {
        hint: `Start it with \`understudy failover ${standby.machine.name}\`.`,
      });
    }
    return { session: found.session, history: found.history, machine: await bootedSpare(parts, standby) };
  }

  #put(standby: Standby, takeover: Takeover): Promise<Standby> {
    return this.#standbys.store.put({ ...standby, takeover });
  }
}

function takeoverOf({ takeover }: Standby): Takeover {
  invariant(takeover !== null, 'a failover is not over');
  return takeover;
}

function nothingCopied(standby: Standby): Omit<FailbackReport, 'downMs' | 'durationMs'> {
  return {
    machine: standby.machine.name,
    name: standby.name,
    method: 'changes',
    reason: '',
    rounds: 0,
    changedBytes: 0,
    copiedBytes: 0,
    zeroedBytes: 0,
    verifiedBytes: 0,
    pointBefore: takeoverOf(standby).pointBefore ?? '',
  };
}
