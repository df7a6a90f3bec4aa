// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';

import type { Bookmarked } from '../../cbt/bookmark.ts';
import { ApplianceError, hasCode, toError } from '../../core/errors.ts';
import { type MachineId, parseMachineId } from '../../core/ids.ts';
import { type HostUptime, hostUptime } from '../../core/uptime.ts';
import { isLocal } from '../../hypervisor/libvirt/endpoint.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import type { Journal } from '../../volume/journal.ts';
import type { WriteLayer } from '../../volume/write-layer.ts';
import { findDomain, isNbdUri } from '../protect-service.ts';
import type { Durability } from './journal-target.ts';
import { passedSince } from './passed-time.ts';
import type { SessionMoment } from './ports.ts';
import { type ContinuousParts, ProtectedMachine } from './protected-machine.ts';
import { type ProtectionRecord, ProtectionRecords } from './protection-record.ts';
import { RecordCopies } from './record-copies.ts';
import type { SessionStatus } from './session.ts';

export interface ProtectionRequest {
  /** A machine's name or UUID. */
  readonly target: string;
  readonly connectUri: string;
  /** 0: every write. */
  readonly intervalMs: number;
  readonly durability: Durability;
  /** Left out: what it was before, or the journal's own. */
  readonly windowMs?: number;
  readonly windowBytes?: number;
  /** The policy on whose behalf it is; left out for the operator, to whom the machine then belongs. */
  readonly policy?: string | undefined;
}

/** A protected machine as it is now. */
export interface ProtectionStatus {
  readonly record: ProtectionRecord;
  /** Undefined in a process that is not the service. */
  readonly session: SessionStatus | undefined;
  /** Undefined, with the reason, when it cannot be opened. */
  readonly journal: Journal | undefined;
  readonly problem: string | undefined;
}

export interface Unprotected {
  readonly record: ProtectionRecord;
  /** The last state, as a recovery point; undefined when there was none to save. */
  readonly point: RecoveryPoint | undefined;
  /** The point is of the end of protection, not of some moment before it. */
  readonly isCurrent: boolean;
  readonly problem: string | undefined;
}

/** How long a journal stays after the end of protection. */
const KEPT_MS: number = 24 * 3_600_000;
const PRUNE_MS = 3_600_000;

/** The machines under continuous protection. Their sessions run in the service; their journals can be read in any process. */
export class ContinuousService implements AsyncDisposable {
  readonly #parts: ContinuousParts;
  readonly #records: ProtectionRecords;
  readonly #machines = new Map<MachineId, ProtectedMachine>();
  readonly #busy = new Set<MachineId>();
  #pruning: NodeJS.Timeout | undefined;
  #hourly: Promise<void> = Promise.resolve();

  private constructor(parts: ContinuousParts) {
    this.#parts = parts;
    this.#records = new ProtectionRecords(parts.catalog, new RecordCopies(join(parts.stateDirectory, 'journals')));
  }

  /** Learns which machines there are; nothing is opened yet. */
  static async open(parts: ContinuousParts): Promise<ContinuousService> {
    const service = new ContinuousService(parts);
    for (const record of await service.#records.load()) service.#remember(record);
    await service.#recoverRecords();
    return service;
  }

  /**
   * Begins all sessions, for the service, and returns at once: a journal may take a while to open. A machine that cannot be
   * protected is tried again, and does not keep the others from it. `hourly` is done now and each hour.
   */
  startSessions(hourly: () => Promise<unknown> = () => Promise.resolve()): void {
    for (const machine of this.#machines.values())
      if (machine.record.endedAt === undefined) machine.startWhenPossible();
    const tidyUp = async (): Promise<void> => {
      await this.#prune();
      await hourly().catch((error: unknown) => this.#parts.onNotice(toError(error).message));
    };
    this.#hourly = tidyUp();
    this.#pruning = setInterval(() => {
      this.#hourly = this.#hourly.then(tidyUp);
    }, PRUNE_MS).unref();
  }

  /**
   * Protects a machine from now on, through restarts of everything, until `unprotect`. Asked again, it takes the new wishes.
   * @throws ApplianceError DOMAIN_NOT_FOUND, NOT_SUPPORTED, LOCKED, those of libvirt and of the journal
   */
  async protect(request: ProtectionRequest): Promise<ProtectionStatus> {
    const { connectUri: connect, intervalMs, durability } = request;
    if (intervalMs === 0 && !isLocal(connect)) {
      throw new ApplianceError(
        'NOT_SUPPORTED',
        `${connect} is another host, whose writes cannot be mirrored to this one`,
        {
          hint: 'Use --interval, or run the appliance on that host.',
        },
      );
    }
    const domain = await findDomain(await this.#parts.connect(connect), request.target);
    const machineId = parseMachineId(domain.uuid);
    return this.#exclusively(machineId, async () => {
      const known = this.#machines.get(machineId);
      await known?.close('protection is set up anew');
      const now = new Date(this.#parts.clock.nowMs()).toISOString();
      const since = known?.record.endedAt === undefined ? (known?.record.since ?? now) : now;
      const window = windowOf(request, known?.record);
      const owner = request.policy === undefined ? {} : { policy: request.policy };
      const record = { machineId, name: domain.name, connect, intervalMs, durability, ...window, ...owner, since };
      await this.#records.put(record);
      const machine = this.#remember(record);
      try {
        await machine.start();
      } catch (error) {
        if (known === undefined) await this.#forget(machine);
        else machine.startWhenPossible();
        throw error;
      }
      return statusOf(machine);
    });
  }

  /**
   * Ends protection. The newest state becomes a recovery point; the journal stays readable for a day.
   * @throws ApplianceError MACHINE_NOT_FOUND, LOCKED
   */
  async unprotect(target: string): Promise<Unprotected> {
    const machine = await this.#find(target);
    return this.#exclusively(machine.record.machineId, async () => {
      let point: RecoveryPoint | undefined;
      let problem: string | undefined;
      const isCurrent = machine.status?.change.state === 'protected';
      try {
        point = await machine.foldNow('the last state under continuous protection');
      } catch (error) {
        problem = toError(error).message;
      }
      await machine.close('protection was ended by the operator');
      const endedAt = new Date(this.#parts.clock.nowMs()).toISOString();
      const { pause: _, ...known } = machine.record;
      const record = { ...known, endedAt, ended: { passedMs: 0, ...this.#uptime() } };
      await this.#records.put(record);
      this.#remember(record);
      return { record, point, isCurrent, problem };
    });
  }

  /** What is to be protected, and how; without looking at it. */
  get records(): readonly ProtectionRecord[] {
    return this.#active.map(({ record }) => record);
  }

  /** Every machine that is protected. */
  async protection(): Promise<ProtectionStatus[]> {
    return Promise.all(this.#active.map(statusOf));
  }

  /**
   * A recovery point of the newest state, now. Undefined for a machine that is not protected, or paused: an ordinary backup
   * of it is possible then, and has what its disks hold. Errors as `foldNow`; DOMAIN_NOT_FOUND, those of libvirt.
   */
  async foldNow(target: string, connectUri: string): Promise<RecoveryPoint | undefined> {
    if (!this.#active.some(({ status }) => status !== undefined) || isNbdUri(target)) return undefined;
    const domain = await findDomain(await this.#parts.connect(connectUri), target);
    const machine = this.#active.find(({ record }) => record.machineId === domain.uuid);
    if (machine?.status === undefined || machine.status.change.state === 'paused') return undefined;
    return machine.foldNow('asked for by the operator');
  }

  /**
   * Names this moment of a machine; see `bookmarkFrozen`.
   * @throws ApplianceError MACHINE_NOT_FOUND, LOCKED, DOMAIN_BUSY while there is no consistent state, BAD_ARGUMENT, NO_SPACE
   */
  async bookmark(
    target: string,
    name: string,
  ): Promise<Bookmarked<SessionMoment> & { readonly record: ProtectionRecord }> {
    const machine = await this.#find(target);
    const { record } = machine;
    return this.#exclusively(record.machineId, async () => ({ ...(await machine.bookmark(name)), record }));
  }

  /** Lets another tool have the machine, until `resume` or for so long. @throws ApplianceError MACHINE_NOT_FOUND, NO_SPACE, IO_FAILED */
  async pause(target: string, reason: string, forMs?: number): Promise<ProtectionRecord> {
    const machine = await this.#find(target);
    await machine.pause(reason, forMs);
    return machine.record;
  }

  /** @throws ApplianceError MACHINE_NOT_FOUND, NO_SPACE, IO_FAILED */
  async resume(target: string): Promise<ProtectionRecord> {
    const machine = await this.#find(target);
    await machine.resume();
    return machine.record;
  }

  /** The journal of a machine, or undefined when it has none. Errors as `Journal.open`. */
  async journalOf(machineId: MachineId): Promise<Journal | undefined> {
    return this.#machines.get(machineId)?.journal();
  }

  /** A part of a journal over a base. @throws ApplianceError MOMENT_NOT_FOUND, WRITE_LOG_CORRUPT, IO_FAILED */
  async openLayer(part: {
    readonly machineId: MachineId;
    readonly logId: string;
    readonly after: number;
    readonly upTo: number;
  }): Promise<WriteLayer & AsyncDisposable> {
    const journal = await this.journalOf(part.machineId);
    if (journal === undefined || journal.logId !== part.logId) {
      throw new ApplianceError('MOMENT_NOT_FOUND', 'the journal of that moment is gone');
    }
    return journal.openView(part.after, part.upTo);
  }

  /** What keeps a point from being deleted. */
  usedBy(pointId: string): string[] {
    return [...this.#machines.values()]
      .filter(({ base }) => base?.id === pointId)
      .map(({ record }) => `continuous protection of ${record.name}`);
  }

  /** Ends all sessions; their machines go on, and are protected again at the next start. Idempotent. */
  async close(): Promise<void> {
    clearInterval(this.#pruning);
    await this.#hourly;
    await Promise.all([...this.#machines.values()].map((machine) => machine.close('the service stops')));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #remember(record: ProtectionRecord): ProtectedMachine {
    const machine = new ProtectedMachine(this.#parts, this.#records, record);
    this.#machines.set(record.machineId, machine);
    return machine;
  }

  /** Those that the catalog has lost. That they cannot be looked for keeps nobody from the others. */
  async #recoverRecords(): Promise<void> {
    const { onNotice } = this.#parts;
    try {
      for (const record of await this.#records.recover()) {
        this.#remember(record);
        if (record.endedAt !== undefined) continue;
        onNotice(`the catalog had lost that ${record.name} is under continuous protection; it goes on`);
      }
    } catch (error) {
      if (!(error instanceof ApplianceError)) throw error;
      onNotice(`whether the catalog has lost machines under continuous protection is not known: ${error.message}`);
    }
  }

  get #active(): ProtectedMachine[] {
    return [...this.#machines.values()].filter(({ record }) => record.endedAt === undefined);
  }

  /** By UUID, or by name: that of now, since a machine may be renamed, and its old name given to another one. */
  async #find(target: string): Promise<ProtectedMachine> {
    const active = this.#active;
    const [known, others] = partition(active, ({ record }) => record.name === target);
    const found =
      active.find(({ record }) => record.machineId === target.toLowerCase()) ??
      (await this.#named(known, target)) ??
      (await this.#named(others, target));
    if (found !== undefined) return found;
    throw new ApplianceError('MACHINE_NOT_FOUND', `${target} is not under continuous protection`, {
      hint: `\`understudy protect ${target} --continuous\` begins it; \`understudy protection\` lists what is protected.`,
    });
  }

  /** The one that has the name now; else one that had it, and is gone. */
  async #named(machines: readonly ProtectedMachine[], target: string): Promise<ProtectedMachine | undefined> {
    const names = await Promise.all(machines.map((machine) => this.#nameNow(machine.record)));
    const found = machines[names.indexOf(target)];
    if (found === undefined) return machines.find(({ record }, at) => names[at] === null && record.name === target);
    if (found.record.name !== target) {
      found.record = { ...found.record, name: target };
      await this.#records.put(found.record);
    }
    return found;
  }

  /** Null for a machine that is not defined any more; the last known name when the hypervisor cannot be asked. */
  async #nameNow({ connect, machineId, name }: ProtectionRecord): Promise<string | null> {
    try {
      return (await (await this.#parts.connect(connect)).domainByUuid(machineId)).name;
    } catch (error) {
      if (hasCode(error, 'DOMAIN_NOT_FOUND')) return null;
      if (error instanceof ApplianceError) return name;
      throw error;
    }
  }

  async #forget({ record: { machineId } }: ProtectedMachine): Promise<void> {
    await this.#records.remove(machineId);
    this.#machines.delete(machineId);
  }

  /** Journals whose protection ended long ago; a clock that is set does not make it so. */
  async #prune(): Promise<void> {
    for (const [machineId, machine] of this.#machines) {
      if (machine.record.endedAt === undefined) continue;
      try {
        await this.#exclusively(machineId, async () => {
          const ended = passedSince(machine.record.ended ?? { passedMs: 0, ...this.#uptime() }, this.#uptime());
          if (ended.passedMs < KEPT_MS) {
            machine.record = { ...machine.record, ended };
            return await this.#records.put(machine.record);
          }
          await machine.removeJournal();
          await this.#forget(machine);
        });
      } catch (error) {
        this.#parts.onNotice(`the journal of ${machine.record.name} could not be removed: ${toError(error).message}`);
      }
    }
  }

  #uptime(): HostUptime {
    return (this.#parts.uptime ?? hostUptime)();
  }

  async #exclusively<T>(machineId: MachineId, work: () => Promise<T>): Promise<T> {
    if (this.#busy.has(machineId)) throw new ApplianceError('LOCKED', 'another operation works on this machine');
    this.#busy.add(machineId);
    try {
      return await work();
    } finally {
      this.#busy.delete(machineId);
    }
  }
}

async function statusOf(machine: ProtectedMachine): Promise<ProtectionStatus> {
  const facts = { record: machine.record, session: machine.status };
  try {
    return { ...facts, journal: await machine.journal(), problem: undefined };
  } catch (error) {
    return { ...facts, journal: undefined, problem: toError(error).message };
  }
}

/** A window does not shrink because nobody spoke of it. */
function windowOf(
  request: ProtectionRequest,
  known: ProtectionRecord | undefined,
): Pick<ProtectionRecord, 'windowMs' | 'windowBytes'> {
  const windowMs = request.windowMs ?? known?.windowMs;
  const windowBytes = request.windowBytes ?? known?.windowBytes;
  return {
    ...(windowMs === undefined ? {} : { windowMs }),
    ...(windowBytes === undefined ? {} : { windowBytes }),
  };
}

function partition<T>(items: readonly T[], isFirst: (item: T) => boolean): [T[], T[]] {
  return [items.filter(isFirst), items.filter((item) => !isFirst(item))];
}
