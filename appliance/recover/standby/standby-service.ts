// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { ApplianceError, hasCode, toError } from '../../core/errors.ts';
import type { PointId } from '../../core/ids.ts';
import { invariant } from '../../core/invariant.ts';
import type { RecoverContext } from '../context.ts';
import { checkIsLocal } from '../local-hypervisor.ts';
import { checkMachineName } from '../machine-name.ts';
import { Failback, type FailbackReport, type FailbackRequest } from './failback.ts';
import { Failover, type FailoverReport, type FailoverRequest, undoFailover } from './failover.ts';
import { type AnswerKind, untilGuestAnswers } from './guest-answer.ts';
import { parsePattern, untilConsoleShows } from './guest-console.ts';
import type { Original } from './original.ts';
import { defineSpare, undefineSpare } from './spare.ts';
import type { StandbyParts } from './standby-parts.ts';
import { type Standby, standing, type TakeoverPhase } from './standby-record.ts';

export interface CreateStandby {
  /** The machine, by name or UUID; it has a recovery point. */
  readonly machine: string;
  /** Where it runs. */
  readonly originalConnect: string;
  /** Where the spare is to be. */
  readonly connect: string;
  readonly networks: Readonly<Record<string, string>>;
  readonly memoryMiB: number | null;
  /** Default: `<machine>-standby`. */
  readonly as?: string;
}

export interface StandbySummary {
  readonly name: string;
  readonly machine: string;
  readonly machineId: string;
  readonly original: string;
  readonly connect: string;
  readonly networks: Readonly<Record<string, string>>;
  readonly memoryMiB: number | null;
  /** The point whose definition the spare has. */
  readonly point: string | null;
  readonly phase: 'ready' | TakeoverPhase;
  /** Where it stands, in a sentence. */
  readonly standing: string;
  /** When the failover began; null without one. */
  readonly since: string | null;
  /** What of the original's definition is different; only when it was just made. */
  readonly changes: readonly string[];
}

export interface StandbyTestReport {
  readonly name: string;
  readonly machine: string;
  readonly point: string;
  /** From the call to the running domain, and to the guest's answer: the measured recovery time. */
  readonly bootedMs: number;
  readonly answeredMs: number;
  readonly answeredBy: AnswerKind;
  /** To the expected words on the console; null when none were. */
  readonly shownMs: number | null;
}

export interface TestStandby {
  readonly name: string;
  /** A regular expression that the guest's serial console must show. */
  readonly expect?: string;
}

/** Spares that take over from machines, and give back what they did meanwhile. One operation at a time on each. */
export class StandbyService {
  readonly #standbys: StandbyParts;
  readonly #busy = new Set<string>();
  /** By machine: what nobody asked for, and nobody is refused for. */
  readonly #following = new Map<string, Promise<string | undefined>>();

  constructor(standbys: StandbyParts) {
    this.#standbys = standbys;
  }

  /** @throws ApplianceError MACHINE_NOT_FOUND (no recovery point), STANDBY_BUSY (it has one), DOMAIN_EXISTS, NOT_SUPPORTED, those of libvirt */
  async create(request: CreateStandby): Promise<StandbySummary> {
    const { parts, ports, store } = this.#standbys;
    checkIsLocal(request.connect);
    const { point } = await ports.stateOf(`${request.machine}@latest`);
    await this.#following.get(point.machine.id);
    return this.#exclusively(point.machine.id, async () => {
      const others = await store.all();
      if (others.some(({ machine }) => machine.id === point.machine.id)) {
        throw new ApplianceError('STANDBY_BUSY', `${point.machine.name} has a spare already`, {
          hint: `Remove it with \`understudy standby remove ${point.machine.name}\` first.`,
        });
      }
      const name = checkMachineName(request.as ?? `${point.machine.name}-standby`);
      if (others.some((other) => other.name === name) || this.#standbys.machines.find(name) !== undefined) {
        throw new ApplianceError('DOMAIN_EXISTS', `there is a machine ${name} of ours already`);
      }
      const wanted: Standby = {
        name,
        spareId: randomUUID(),
        connect: request.connect,
        machine: point.machine,
        originalConnect: request.originalConnect,
        networks: request.networks,
        memoryMiB: request.memoryMiB,
        createdAt: new Date(parts.clock.nowMs()).toISOString(),
        definition: null,
        takeover: null,
      };
      // Stored first: what a crash leaves is defined by the next `create`, `test` or backup, or removed.
      await store.put(wanted);
      try {
        const { standby, changes } = await defineSpare(parts, wanted, point);
        return summaryOf(await store.put(standby), changes);
      } catch (error) {
        await store.delete(wanted);
        throw error;
      }
    });
  }

  async list(): Promise<StandbySummary[]> {
    return (await this.#standbys.store.all()).map((standby) => summaryOf(standby, []));
  }

  /** Forgets a spare and undefines its domain; machines of others are never touched. @throws ApplianceError STANDBY_NOT_FOUND, STANDBY_BUSY, those of libvirt */
  async remove(name: string): Promise<StandbySummary> {
    return this.#on(name, async (standby) => {
      if (standby.takeover !== null) throw new ApplianceError('STANDBY_BUSY', standing(standby));
      await undefineSpare(this.#standbys.parts, standby);
      await this.#standbys.store.delete(standby);
      return summaryOf(standby, []);
    });
  }

  /**
   * Boots the newest state as the spare would, without its network, waits for the guest, and throws it away again.
   * @throws ApplianceError STANDBY_NOT_FOUND, STANDBY_BUSY, BAD_ARGUMENT, NOT_SUPPORTED (no console to look at), BOOT_FAILED,
   *   TIMED_OUT, ABORTED. Nothing of the test is left.
   */
  async test({ name, expect }: TestStandby, context: RecoverContext): Promise<StandbyTestReport> {
    const { parts, machines, ports } = this.#standbys;
    const pattern = expect === undefined ? undefined : parsePattern(expect);
    return this.#on(name, async (found) => {
      if (found.takeover !== null) throw new ApplianceError('STANDBY_BUSY', standing(found));
      const startedMs = parts.clock.elapsedMs();
      const state = await ports.stateOf(`${found.machine.id}@latest`);
      const standby = await this.#define(found, state.point.id);
      const { networks, memoryMiB } = standby;
      const as = `${standby.name}-test-${randomUUID().slice(0, 8)}`;
      await using undo = new AsyncDisposableStack();
      const { machineId } = await machines.boot(
        {
          ...state,
          as,
          keepNetwork: false,
          connect: standby.connect,
          spare: { networks, memoryMiB },
          logsConsole: pattern !== undefined,
        },
        context,
      );
      undo.defer(async () => {
        await machines.stop(as, true);
      });
      const bootedMs = Math.round(parts.clock.elapsedMs() - startedMs);
      const connection = await parts.connectLibvirt(standby.connect);
      const domain = await connection.domainByUuid(machineId);
      context.onProgress({ phase: 'waiting for the guest', done: 0, total: 0, unit: 'items' });
      const { answer, shownMs } = await this.#answer(as, { machine: { connection, domain }, pattern, context });
      return {
        name: standby.name,
        machine: standby.machine.name,
        point: state.point.id,
        bootedMs,
        answeredMs: Math.round(answer.atMs - startedMs),
        answeredBy: answer.kind,
        shownMs: shownMs === null ? null : Math.round(shownMs - startedMs),
      };
    });
  }

  /** The first sign of a guest, and when its console showed what it must. Both are waited for at once. */
  async #answer(
    name: string,
    on: { readonly machine: Original; readonly pattern: RegExp | undefined; readonly context: RecoverContext },
  ): Promise<{ answer: Awaited<ReturnType<typeof untilGuestAnswers>>; shownMs: number | null }> {
    const { machines, parts } = this.#standbys;
    const { clock } = parts;
    const { machine, pattern, context } = on;
    const found = machines.find(name);
    invariant(found !== undefined, 'a machine that was booted is known');
    const ending = new AbortController();
    const signal = AbortSignal.any([context.signal, ending.signal]);
    const path = machines.consolePathOf(found.session);
    const writtenBytes = (): number => found.history?.log.writtenBytes ?? 0;
    const answering = untilGuestAnswers({ machine, writtenBytes, clock, signal });
    const showing = pattern === undefined ? Promise.resolve(null) : untilConsoleShows({ path, pattern, clock, signal });
    try {
      const [answer, shownMs] = await Promise.all([answering, showing]);
      return { answer, shownMs };
    } finally {
      ending.abort();
      await Promise.allSettled([answering, showing]);
    }
  }

  /** See `Failover`. */
  async failover(name: string, request: FailoverRequest, context: RecoverContext): Promise<FailoverReport> {
    return this.#on(name, (standby) => new Failover(this.#standbys, context).run(standby, request));
  }

  /** See `undoFailover`. */
  async undo(name: string): Promise<StandbySummary> {
    return this.#on(name, async (standby) => summaryOf(await undoFailover(this.#standbys, standby), []));
  }

  /** See `Failback`. */
  async failback(name: string, request: FailbackRequest, context: RecoverContext): Promise<FailbackReport> {
    return this.#on(name, (standby) => new Failback(this.#standbys, context).run(standby, request));
  }

  /** After a new point: the spare follows the original's definition. A sentence when it could not; never rejects. */
  async follow(machineId: string, point: PointId): Promise<string | undefined> {
    const following = this.#follow(machineId, point);
    this.#following.set(machineId, following);
    const problem = await following;
    if (this.#following.get(machineId) === following) this.#following.delete(machineId);
    return problem;
  }

  async #follow(machineId: string, point: PointId): Promise<string | undefined> {
    try {
      if (this.#busy.has(machineId)) return undefined;
      await this.#exclusively(machineId, async () => {
        const standby = (await this.#standbys.store.all()).find(({ machine }) => machine.id === machineId);
        if (standby?.takeover === null) await this.#define(standby, point);
      });
      return undefined;
    } catch (error) {
      return `the spare of ${machineId} does not follow its original: ${toError(error).message}`;
    }
  }

  /** Failovers and failbacks that are not over, in sentences; for the start of the service. */
  async unfinished(): Promise<string[]> {
    const all = await this.#standbys.store.all();
    return all.filter(({ takeover }) => takeover !== null && takeover.phase !== 'running').map(standing);
  }

  /**
   * A backup must not take the disks of a machine for its state while a failback writes them, and what a spare has written in
   * place of its original must not be given up. @throws ApplianceError STANDBY_BUSY
   */
  async checkBackup(machine: string): Promise<void> {
    const standby = await this.#find(machine);
    if (standby?.takeover?.phase === 'returning') throw new ApplianceError('STANDBY_BUSY', standing(standby));
  }

  /** The same for `stop`. @throws ApplianceError STANDBY_BUSY */
  async checkDiscard(session: string): Promise<void> {
    const standby = (await this.#standbys.store.all()).find(({ name }) => name === session);
    if (standby === undefined || standby.takeover === null) return;
    throw new ApplianceError('STANDBY_BUSY', standing(standby), {
      hint: 'It holds what was written since the failover. Stop it without --discard, or return with `understudy failback`.',
    });
  }

  async #find(name: string): Promise<Standby | undefined> {
    try {
      return await this.#standbys.store.get(name);
    } catch (error) {
      if (hasCode(error, 'STANDBY_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  async #define(standby: Standby, id: PointId): Promise<Standby> {
    const { parts, ports, store } = this.#standbys;
    const defined = await defineSpare(parts, standby, await ports.pointOf(id));
    return store.put(defined.standby);
  }

  async #on<T>(name: string, work: (standby: Standby) => Promise<T>): Promise<T> {
    const { machine } = await this.#standbys.store.get(name);
    await this.#following.get(machine.id);
    // Read again: what was under way before may have changed it.
    return this.#exclusively(machine.id, async () => work(await this.#standbys.store.get(machine.id)));
  }

  async #exclusively<T>(machineId: string, work: () => Promise<T>): Promise<T> {
    if (this.#busy.has(machineId)) {
      throw new ApplianceError('LOCKED', 'another operation works on the spare of this machine');
    }
    this.#busy.add(machineId);
    try {
      return await work();
    } finally {
      this.#busy.delete(machineId);
    }
  }
}

function summaryOf(standby: Standby, changes: readonly string[]): StandbySummary {
  const { name, machine, originalConnect: original, connect, networks, memoryMiB, definition, takeover } = standby;
  return {
    name,
    machine: machine.name,
    machineId: machine.id,
    original,
    connect,
    networks,
    memoryMiB,
    point: definition?.point ?? null,
    phase: takeover?.phase ?? 'ready',
    standing: standing(standby),
    since: takeover?.startedAt ?? null,
    changes,
  };
}
