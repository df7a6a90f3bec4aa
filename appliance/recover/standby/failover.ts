// SPDX-License-Identifier: Apache-2.0
import { imageMarks } from '../../cbt/image-marks.ts';
import { ApplianceError, toError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import type { Domain } from '../../hypervisor/libvirt/domain.ts';
import { isLocal } from '../../hypervisor/libvirt/endpoint.ts';
import { readMachine } from '../../hypervisor/libvirt/read-machine.ts';
import type { RecoverableState } from '../../volume/recoverable-state.ts';
import type { RecoverContext } from '../context.ts';
import { checkIsOff } from '../in-place-target.ts';
import { DOMAIN_ATTACHMENT, findAttachment } from '../point-content.ts';
import { untilGuestAnswers } from './guest-answer.ts';
import {
  bootedSpare,
  findOriginal,
  imagesInUse,
  isOff,
  type Original,
  requireOriginal,
  switchOff,
} from './original.ts';
import { defineSpare } from './spare.ts';
import type { StandbyParts } from './standby-parts.ts';
import { type Standby, standing, type Takeover } from './standby-record.ts';

export interface FailoverRequest {
  /** The moment, as after the `@` of a recovery expression; left out for the newest state. */
  readonly at?: string;
  /** Pull the plug of the original, or go on without having reached it. */
  readonly isForced: boolean;
}

export interface FailoverReport {
  readonly machine: string;
  readonly name: string;
  readonly connect: string;
  /** The original was reached and switched off. */
  readonly planned: boolean;
  readonly point: string;
  readonly moment: { readonly sequence: number; readonly time: string } | null;
  /** From the call, or of the one that went on with it, to the running spare. */
  readonly bootedMs: number;
  /** To the guest's answer; null when it was not waited for to the end. */
  readonly answeredMs: number | null;
  readonly answeredBy: 'agent' | 'disk-writes' | null;
  readonly changes: readonly string[];
}

/**
 * Lets the spare take over. Each phase is stored before its first step, so that a failover that was killed is gone on with
 * by the next call, or undone. Planned, nothing is lost: the original is switched off first, and its last writes are in the
 * point that the spare starts from.
 */
export class Failover {
  readonly #standbys: StandbyParts;
  readonly #context: RecoverContext;

  constructor(standbys: StandbyParts, context: RecoverContext) {
    this.#standbys = standbys;
    this.#context = context;
  }

  /**
   * @throws ApplianceError NOT_FENCED (original not reached, and not forced), STANDBY_BUSY (it runs already), TIMED_OUT (the
   *   original does not shut down; it goes on as it was), DOMAIN_WRONG_STATE, BOOT_FAILED, those of a backup
   */
  async run(found: Standby, request: FailoverRequest): Promise<FailoverReport> {
    const { clock } = this.#standbys.parts;
    const startedMs = clock.elapsedMs();
    let standby = found.takeover === null ? await this.#begin(found, request) : await this.#goOn(found, request);
    if (phaseOf(standby) === 'fencing') standby = await this.#fence(standby);
    if (phaseOf(standby) === 'fenced') standby = await this.#takeLastPoint(standby);
    return this.#boot(standby, startedMs);
  }

  async #begin(standby: Standby, { at, isForced }: FailoverRequest): Promise<Standby> {
    const { parts, ports } = this.#standbys;
    // Whatever cannot be resolved is better known before anything is switched off.
    const wanted = await ports.stateOf(`${standby.machine.id}@${at ?? 'latest'}`);
    const original = await findOriginal(parts, standby);
    const takeover: Takeover = {
      phase: 'fencing',
      startedAt: new Date(parts.clock.nowMs()).toISOString(),
      isPlanned: true,
      isForced,
      at: at ?? null,
      original: null,
      state: null,
      marks: null,
      pointBefore: null,
    };
    if ('problem' in original) {
      if (!isForced) throw notFenced(standby, wanted, original.problem);
      await this.#checkIsNotRunningHere(standby, wanted);
      this.#context.onNotice(
        `${standby.machine.name} could not be reached (${original.problem.message}): whatever it wrote after the state that is started is not in it.`,
      );
      return this.#put(standby, { ...takeover, phase: 'booting', isPlanned: false, state: stateOf(wanted) });
    }
    if (!isLocal(standby.originalConnect)) {
      throw new ApplianceError('NOT_SUPPORTED', `the disks of ${standby.machine.name} lie on another host`, {
        hint: `Its last writes cannot be read once it is off. Shut it down there, so that its hypervisor is out of reach, or use \`understudy boot\`.`,
      });
    }
    const { domain } = original;
    const wasRunning = !(await isOff(domain));
    if (!wasRunning) await checkIsOff(domain);
    return this.#put(standby, { ...takeover, original: { wasRunning, autostart: await domain.autostart() } });
  }

  /** Force helps against not knowing, not against knowing better. */
  async #checkIsNotRunningHere({ machine, originalConnect }: Standby, { point }: RecoverableState): Promise<void> {
    if (!isLocal(originalConnect)) return;
    const definition = await findAttachment(this.#standbys.parts.repository, point, DOMAIN_ATTACHMENT);
    const inUse = definition === undefined ? [] : await imagesInUse(definition.toString('utf8'));
    if (inUse.length === 0) return;
    throw new ApplianceError(
      'NOT_FENCED',
      `${machine.name} still runs on this host, although its libvirt does not answer`,
      {
        details: { images: inUse },
        hint: `A process has ${inUse.join(', ')} open (\`fuser\` names it). End it, or bring its libvirt back and fail over without --force: then nothing is lost.`,
      },
    );
  }

  async #goOn(standby: Standby, request: FailoverRequest): Promise<Standby> {
    const { takeover, name } = standby;
    invariant(takeover !== null, 'there is a failover to go on with');
    if (takeover.phase === 'returned') {
      // The original does not start: the spare takes over again, with everything that it had.
      const { domain } = await requireOriginal(this.#standbys.parts, standby);
      if (!(await isOff(domain))) throw new ApplianceError('STANDBY_BUSY', standing(standby));
      return this.#put(standby, { ...takeover, phase: 'running', marks: null });
    }
    if (takeover.phase === 'running' || takeover.phase === 'returning') {
      const spare = await this.#spare(standby);
      if (spare !== undefined && !(await isOff(spare.domain))) {
        throw new ApplianceError('STANDBY_BUSY', `${name} runs already in place of ${standby.machine.name}`);
      }
      return standby;
    }
    if (request.at !== undefined && request.at !== takeover.at) {
      throw new ApplianceError('STANDBY_BUSY', `a failover of ${standby.machine.name} to another moment is under way`, {
        hint: 'Go on with it without --at, or undo it with --undo first.',
      });
    }
    this.#context.onNotice(`This goes on with the failover of ${takeover.startedAt}.`);
    return request.isForced && !takeover.isForced ? this.#put(standby, { ...takeover, isForced: true }) : standby;
  }

  async #fence(standby: Standby): Promise<Standby> {
    const { parts } = this.#standbys;
    const takeover = takeoverOf(standby);
    const original = await requireOriginal(parts, standby);
    const { domain } = original;
    this.#step(`switching ${domain.name} off`, 0);
    try {
      await domain.setAutostart(false);
      await switchOff(original, { isForced: takeover.isForced, clock: parts.clock, signal: this.#context.signal });
    } catch (error) {
      await this.#letGo(standby, domain, error);
      throw error;
    }
    return this.#put(standby, { ...takeover, phase: 'fenced' });
  }

  /** The original goes on running: as if nothing had been asked. */
  async #letGo(standby: Standby, domain: Domain, because: unknown): Promise<void> {
    try {
      if (await isOff(domain)) return;
      if (takeoverOf(standby).original?.autostart === true) await domain.setAutostart(true);
      await this.#standbys.store.put({ ...standby, takeover: null });
    } catch (error) {
      this.#context.onNotice(`${toError(because).message}; nor could that be undone: ${toError(error).message}`);
    }
  }

  /** The last writes of the original, and how its images look that hold them. */
  async #takeLastPoint(standby: Standby): Promise<Standby> {
    const { parts, ports } = this.#standbys;
    const takeover = takeoverOf(standby);
    const original = await requireOriginal(parts, standby);
    await checkIsOff(original.domain);
    this.#step(`reading the last writes of ${standby.machine.name}`, 1);
    const before = await marksOf(original);
    const point = await ports.backup(standby, this.#context);
    const after = await marksOf(original);
    await checkIsOff(original.domain);
    const isUntouched = after === before || after === point.tracker['images'];
    const state = takeover.at === null ? { point } : await ports.stateOf(`${standby.machine.id}@${takeover.at}`);
    const holdsState = isUntouched && state.moment === undefined && state.point.id === point.id;
    const { standby: current } = await this.#redefined(standby, state);
    return this.#put(current, {
      ...takeover,
      phase: 'booting',
      state: stateOf(state),
      marks: holdsState ? after : null,
    });
  }

  async #redefined(standby: Standby, state: RecoverableState): Promise<{ standby: Standby }> {
    if (this.#standbys.machines.find(standby.name) !== undefined) return { standby };
    return defineSpare(this.#standbys.parts, standby, state.point);
  }

  async #boot(standby: Standby, startedMs: number): Promise<FailoverReport> {
    const { parts, ports, machines } = this.#standbys;
    const takeover = takeoverOf(standby);
    const { state } = takeover;
    invariant(state !== null, 'a spare starts from a state that was chosen');
    this.#step(`starting ${standby.name}`, 2);
    const known = machines.find(standby.name)?.session;
    const point = known?.point ?? (await ports.pointOf(state.point));
    const { networks, memoryMiB, spareId: machineId } = standby;
    const running = await this.#spare(standby);
    const isRunning = running !== undefined && !(await isOff(running.domain));
    const changes = isRunning
      ? []
      : (
          await machines.boot(
            {
              point,
              ...(state.moment === null ? {} : { moment: state.moment }),
              as: standby.name,
              keepNetwork: true,
              connect: standby.connect,
              spare: { networks, memoryMiB, machineId },
            },
            this.#context,
          )
        ).changes;
    const bootedMs = Math.round(parts.clock.elapsedMs() - startedMs);
    if (takeover.phase === 'booting') await this.#put(standby, { ...takeover, phase: 'running' });
    const answer = await this.#answer(standby);
    return {
      machine: standby.machine.name,
      name: standby.name,
      connect: standby.connect,
      planned: takeover.isPlanned,
      point: state.point,
      moment:
        state.moment === null
          ? null
          : { sequence: state.moment.sequence, time: new Date(state.moment.timeUs / 1000).toISOString() },
      bootedMs,
      answeredMs: answer === undefined ? null : Math.round(answer.atMs - startedMs),
      answeredBy: answer?.kind ?? null,
      changes,
    };
  }

  /** The spare has taken over, whether its guest answers or not: silence is a notice. */
  async #answer(standby: Standby): Promise<Awaited<ReturnType<typeof untilGuestAnswers>> | undefined> {
    const { parts, machines } = this.#standbys;
    const machine = await this.#spare(standby);
    const log = machines.find(standby.name)?.history?.log;
    if (machine === undefined || log === undefined) return undefined;
    this.#step(`waiting for the guest of ${standby.name}`, 3);
    try {
      const { clock } = parts;
      return await untilGuestAnswers({
        machine,
        writtenBytes: () => log.writtenBytes,
        clock,
        signal: this.#context.signal,
      });
    } catch (error) {
      this.#context.onNotice(toError(error).message);
      return undefined;
    }
  }

  async #spare(standby: Standby): Promise<Original | undefined> {
    return this.#standbys.machines.find(standby.name) === undefined
      ? undefined
      : bootedSpare(this.#standbys.parts, standby);
  }

  #put(standby: Standby, takeover: Takeover): Promise<Standby> {
    return this.#standbys.store.put({ ...standby, takeover });
  }

  #step(phase: string, done: number): void {
    this.#context.onProgress({ phase, done, total: STEPS, unit: 'items' });
  }
}

const STEPS = 4;

/**
 * Goes back to the original while the spare has not taken over yet: nothing of the spare's is kept.
 * @throws ApplianceError STANDBY_BUSY once it has taken over; those of libvirt
 */
export async function undoFailover(standbys: StandbyParts, standby: Standby): Promise<Standby> {
  const { parts, machines, store, ports } = standbys;
  const { takeover, machine } = standby;
  if (takeover === null) throw new ApplianceError('STANDBY_BUSY', `there is no failover of ${machine.name} to undo`);
  if (!['fencing', 'fenced', 'booting'].includes(takeover.phase)) {
    throw new ApplianceError('STANDBY_BUSY', standing(standby), {
      hint: `What the spare has written would be lost. \`understudy failback ${machine.name}\` returns with it.`,
    });
  }
  if (machines.find(standby.name) !== undefined) await machines.stop(standby.name, true);
  if (takeover.original !== null) {
    const { domain } = await requireOriginal(parts, standby);
    if (takeover.original.autostart) await domain.setAutostart(true);
    if (takeover.original.wasRunning && (await isOff(domain))) await domain.start();
  }
  const { standby: defined } = await defineSpare(parts, standby, (await ports.stateOf(`${machine.id}@latest`)).point);
  return store.put({ ...defined, takeover: null });
}

function notFenced(
  { machine, originalConnect }: Standby,
  state: RecoverableState,
  cause: ApplianceError,
): ApplianceError {
  const when = state.moment === undefined ? state.point.createdAt : new Date(state.moment.timeUs / 1000).toISOString();
  return new ApplianceError('NOT_FENCED', `${machine.name} cannot be reached on ${originalConnect}: ${cause.message}`, {
    cause,
    details: { newest: when, point: state.point.id },
    hint: `If it still runs, two machines with the same addresses would. If you are sure that it does not, add --force: the newest state here is of ${when}, and what was written after it would be lost until the original is back.`,
  });
}

function stateOf({ point, moment }: RecoverableState): NonNullable<Takeover['state']> {
  return { point: point.id, moment: moment ?? null };
}

function takeoverOf({ takeover }: Standby): Takeover {
  invariant(takeover !== null, 'a failover is under way');
  return takeover;
}

function phaseOf(standby: Standby): Takeover['phase'] {
  return takeoverOf(standby).phase;
}

async function marksOf({ connection, domain }: Original): Promise<string> {
  return imageMarks(await readMachine(connection, domain));
}
