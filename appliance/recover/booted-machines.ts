// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import { isForeign } from '../hypervisor/libvirt/qemu-access.ts';
import { type QemuOwner, qemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';
import type { JournalMoment, RecoverableState } from '../volume/recoverable-state.ts';
import { BootedHistories } from './booted-histories.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import { checkIsLocal } from './local-hypervisor.ts';
import { LogSpace } from './log-space.ts';
import { checkMachineIsNew, checkMachineName } from './machine-name.ts';
import type { MigrateRequest } from './migration-plan.ts';
import { type MigrateReport, Migrations } from './migrations.ts';
import { PendingNames } from './pending-names.ts';
import { DOMAIN_ATTACHMENT } from './point-content.ts';
import type { PointUse } from './point-use.ts';
import { ResumeWatch } from './resume-watch.ts';
import { type RewindReport, Rewinds } from './rewind.ts';
import { SessionDisks } from './session-disks.ts';
import type { SessionHistory } from './session-history.ts';
import { SessionMachines } from './session-machines.ts';
import { SessionRegistry } from './session-registry.ts';
import { bootError, startSession } from './session-start.ts';
import { type Session, SessionStore } from './session-store.ts';
import type { SpareWishes } from './standby/spare-definition.ts';

export interface BootRequest extends RecoverableState {
  /** Default: the machine's name and the first digits of the point's id, or the sequence of the moment. */
  readonly as?: string;
  readonly keepNetwork?: boolean;
  readonly keepIdentity?: boolean;
  readonly connect: string;
  /** It stands in for the machine: the network as mapped, the addresses as they were, and, when it takes over, this UUID. */
  readonly spare?: SpareWishes & { readonly machineId?: string };
  /** What its serial console shows is added to a file, see `consolePathOf`. @throws NOT_SUPPORTED without such a console */
  readonly logsConsole?: boolean;
}

export interface BootReport {
  readonly name: string;
  readonly machineId: string;
  readonly point: string;
  /** Null for the recovery point itself. */
  readonly moment: JournalMoment | null;
  readonly connect: string;
  /** From the call to the running domain. */
  readonly durationMs: number;
  readonly exports: readonly { readonly disk: string; readonly uri: string }[];
  /** Sentences: what of the saved definition had to be changed to start it here. */
  readonly changes: readonly string[];
}

export interface BootedMachine {
  readonly name: string;
  readonly machineId: string;
  readonly point: string;
  readonly moment: JournalMoment | null;
  readonly connect: string;
  /** libvirt's word, `kept` (stopped, with its writes), `gone` (somebody undefined it), `unknown` (libvirt does not answer). */
  readonly state: string;
  readonly startedAt: string;
  /** Bytes of its write log. */
  readonly writtenBytes: number;
  /** What the operator should do something about, in a sentence; null for nothing. */
  readonly problem: string | null;
}

export interface StopReport {
  readonly name: string;
  readonly discarded: boolean;
  readonly writtenBytes: number;
  readonly outcome: string;
}

/** What became of the sessions of an earlier process; sentences. */
export interface RestoredSessions {
  readonly restored: readonly string[];
  readonly problems: readonly string[];
}

const UNHEARD = { onNotice: (): undefined => undefined, onProgress: (): undefined => undefined };
const NAME_DIGITS = 8;

/**
 * Machines that run from recovery points: their disks are exports of ours, what they write goes into a log of their own.
 * A session is stored before anything of it is made and until everything of it is gone, so that a restart of the service
 * finds all of them. The definition is persistent: a guest that shut down can be started again, by `boot` or by libvirt's
 * own means. Only domains that carry our mark are ever ended or undefined.
 */
export class BootedMachines implements AsyncDisposable {
  readonly #parts: RecoverParts;
  readonly #store: SessionStore;
  readonly #registry: SessionRegistry;
  readonly #disks: SessionDisks;
  readonly #machines: SessionMachines;
  readonly #names: PendingNames;
  readonly #space: LogSpace;
  readonly #migrations: Migrations;
  readonly #rewinds: Rewinds;
  readonly #watch: ResumeWatch;
  /** What these machines were at any moment. */
  readonly histories: BootedHistories;
  readonly #use: PointUse;

  constructor(parts: RecoverParts, use: PointUse) {
    this.#parts = parts;
    this.#use = use;
    this.#store = new SessionStore(parts.stateDirectory);
    this.#registry = new SessionRegistry(this.#store, use);
    this.#disks = new SessionDisks(parts, this.#store, this.#registry);
    this.#machines = new SessionMachines(parts.connectLibvirt, parts.repository.config.id);
    this.#names = new PendingNames(parts.stateDirectory, parts.connectLibvirt);
    this.#space = new LogSpace(parts.stateDirectory, parts.onNotice ?? UNHEARD.onNotice);
    this.#watch = new ResumeWatch(
      {
        registry: this.#registry,
        machines: this.#machines,
        names: this.#names,
        space: this.#space,
        disks: this.#disks,
      },
      () => parts.clock.elapsedMs(),
    );
    const [registry, disks, machines] = [this.#registry, this.#disks, this.#machines];
    this.histories = new BootedHistories(parts, registry, disks, machines);
    this.#rewinds = new Rewinds({ parts, store: this.#store, registry, disks, machines });
    this.#migrations = new Migrations({
      parts,
      store: this.#store,
      registry,
      disks,
      machines,
      names: this.#names,
    });
  }

  /** Learns which sessions there are, so that their points count as used. @throws ApplianceError IO_FAILED, REPOSITORY_FORMAT */
  async load(): Promise<void> {
    await this.#registry.load();
  }

  /**
   * Serves the disks of all running sessions again, under their old names, brings to an end what a crash interrupted, and
   * from then on lets guests go on that were paused because the service was away. A problem with one session does not
   * keep the others from it.
   */
  async restoreSessions(): Promise<RestoredSessions> {
    const restored: string[] = [];
    const problems: string[] = [];
    const forAll = async (work: (session: Session) => Promise<string | undefined>): Promise<void> => {
      for (const session of this.#registry.all()) {
        try {
          const sentence = await this.#registry.exclusively(session.name, () => work(session));
          if (sentence !== undefined) restored.push(sentence);
        } catch (error) {
          problems.push(`${session.name}: ${toError(error).message}`);
        }
      }
    };
    // All disks first: guests wait for them.
    await forAll(async (session) => {
      if (session.phase !== 'running' && session.phase !== 'rewinding') return undefined;
      await this.#disks.open(session);
      return `${session.name} is served again.`;
    });
    await forAll((session) => this.#finish(session, (notice) => problems.push(notice)));
    this.#watch.start();
    return { restored, problems };
  }

  /**
   * Starts a point as a machine of its own. A machine of this name that was stopped and kept, or shut down by itself,
   * goes on from what it had written, if it is of the same point.
   * @throws ApplianceError DOMAIN_EXISTS, LOCKED, NOT_SUPPORTED (other host; point without definition), BAD_ARGUMENT,
   *   POINT_NOT_FOUND, BOOT_FAILED with its cause, NO_SPACE, ABORTED, those of the repository. Nothing of a failed boot is left.
   */
  async boot(request: BootRequest, context: RecoverContext): Promise<BootReport> {
    const startedMs = this.#parts.clock.elapsedMs();
    const { point } = request;
    const name = checkMachineName(request.as ?? `${point.machine.name}-${stateSuffix(request)}`);
    checkIsLocal(request.connect);
    return this.#registry.exclusively(name, async () => {
      const connection = await this.#parts.connectLibvirt(request.connect);
      const known = this.#registry.find(name);
      // A session that is kept uses its point already, whatever became of it.
      const endUse = known === undefined ? await this.#use.beginListed(point, `boot of ${name}`) : undefined;
      using _ = { [Symbol.dispose]: () => endUse?.() };
      const session =
        known === undefined
          ? await this.#newSession(name, request, connection)
          : await this.#resumed(known, request, connection);
      const changes = await this.#start(session, { request, connection, context });
      this.#watch.start();
      return {
        name,
        machineId: session.machineId,
        point: point.id,
        moment: session.moment ?? null,
        connect: session.connect,
        durationMs: Math.round(this.#parts.clock.elapsedMs() - startedMs),
        exports: this.#disks.uris(session),
        changes,
      };
    });
  }

  /** Every session, with what libvirt says of it now. */
  async booted(): Promise<BootedMachine[]> {
    const machines: BootedMachine[] = [];
    for (const session of this.#registry.all()) {
      machines.push({
        name: session.name,
        machineId: session.machineId,
        point: session.point.id,
        moment: session.moment ?? null,
        connect: session.connect,
        state: await this.#machines.stateOf(session),
        startedAt: session.startedAt,
        writtenBytes: await this.#writtenBytes(session),
        problem: session.phase === 'running' ? this.#space.problemOf(session.name) : null,
      });
    }
    return machines;
  }

  /**
   * Pulls the plug of a booted machine and removes its definition. What it wrote is kept, and `boot` under the same name
   * goes on from it, or it is given up with `isDiscarded`.
   * @throws ApplianceError MACHINE_NOT_FOUND, LOCKED, those of libvirt; then nothing is lost and it can be asked again
   */
  async stop(name: string, isDiscarded: boolean): Promise<StopReport> {
    return this.#registry.exclusively(name, async () => {
      const session = this.#known(name);
      const writtenBytes = await this.#writtenBytes(session);
      const report = { name, discarded: isDiscarded, writtenBytes };
      const kept = `what it had written is kept, and \`understudy boot\` under the same name goes on from it`;
      if (isDiscarded) {
        await this.#discard(session);
        const left = await this.histories.pointsOf(session);
        const points = left === 0 ? '' : ` Recovery points that were made of it stay (${left}).`;
        return {
          ...report,
          outcome: `${name} is gone with what it had written; the recovery point is as it was.${points}`,
        };
      }
      if (session.phase === 'kept') return { ...report, outcome: `${name} was stopped already; ${kept}.` };
      await this.#keep(await this.#unmoved((await this.#rewinds.settle(session)).session));
      return { ...report, outcome: `${name} was switched off; ${kept}.` };
    });
  }

  /**
   * Moves the disks of a booted machine to production storage while it runs; it is not ours afterwards.
   * @throws ApplianceError MACHINE_NOT_FOUND, LOCKED, DOMAIN_WRONG_STATE, and as `Migrations.migrate`
   */
  async migrate(request: MigrateRequest, context: RecoverContext): Promise<MigrateReport> {
    return this.#registry.exclusively(request.name, async () => {
      const session = this.#known(request.name);
      if (session.phase !== 'running') {
        throw new ApplianceError('DOMAIN_WRONG_STATE', `${session.name} is stopped; a machine is moved while it runs`, {
          hint: 'Start it with `understudy boot` first, or restore the point.',
        });
      }
      await this.#disks.open(session, context);
      const report = await this.#migrations.migrate(session, request, context);
      this.#watch.start();
      return report;
    });
  }

  /**
   * Gives a booted machine back a state of its own history; what it wrote since stays in there.
   * @throws ApplianceError MACHINE_NOT_FOUND, and as `Rewinds.rewind`
   */
  async rewind(name: string, state: RecoverableState, context: RecoverContext): Promise<RewindReport> {
    return this.#registry.exclusively(name, () => this.#rewinds.rewind(this.#known(name), state, context));
  }

  /** The session of that name, with what its machine has written while it is served. */
  find(name: string): { readonly session: Session; readonly history: SessionHistory | undefined } | undefined {
    const session = this.#registry.find(name);
    return session === undefined ? undefined : { session, history: this.#disks.servedHistory(session) };
  }

  /** Where the variables of a session's firmware are, if it has any. */
  nvramPathOf(session: Session): string {
    return this.#store.nvramPathOf(session);
  }

  /** Where a session's console is kept, when its boot asked for that. */
  consolePathOf(session: Session): string {
    return this.#store.consolePathOf(session);
  }

  /** Stops serving and watching; the sessions stay, and their guests wait for the next start. Idempotent. */
  async close(): Promise<void> {
    await this.#watch.close();
    await this.#disks.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #known(name: string): Session {
    const session = this.#registry.find(name);
    if (session !== undefined) return session;
    throw new ApplianceError('MACHINE_NOT_FOUND', `there is no booted machine ${name}`, {
      hint: 'List them with `understudy booted`.',
    });
  }

  /** The session, with all of its disks here. @throws ApplianceError MIGRATION_UNFINISHED, MACHINE_NOT_FOUND; those of libvirt */
  async #unmoved(session: Session): Promise<Session> {
    const settled = await this.#migrations.settle(session, UNHEARD);
    if (settled.kind === 'back') return settled.session;
    const code = settled.kind === 'done' ? 'MACHINE_NOT_FOUND' : 'MIGRATION_UNFINISHED';
    throw new ApplianceError(code, settled.sentence);
  }

  async #newSession(name: string, request: BootRequest, connection: LibvirtConnection): Promise<Session> {
    const { point, moment } = request;
    if (!point.attachments.some((attachment) => attachment.name === DOMAIN_ATTACHMENT)) {
      throw new ApplianceError('NOT_SUPPORTED', `the point ${point.id} has no machine definition to boot`, {
        hint: 'Export or restore its disks, and attach them to a machine of your own.',
      });
    }
    const keepsIdentity = request.keepIdentity === true;
    const { machineId: spareId, ...spare } = request.spare ?? {};
    const machineId = spareId ?? (keepsIdentity ? point.machine.id : randomUUID());
    // The definition of a spare is there already, and is replaced.
    if (spareId === undefined) await checkMachineIsNew(connection, name, machineId);
    return {
      id: this.#store.newId(),
      name,
      phase: 'starting',
      point,
      ...(moment === undefined ? {} : { moment }),
      connect: request.connect,
      machineId,
      keepsIdentity,
      ...(request.spare === undefined ? {} : { spare: spare as SpareWishes }),
      startedAt: new Date(this.#parts.clock.nowMs()).toISOString(),
      ...(await ownerOf(connection)),
    };
  }

  async #resumed(known: Session, request: BootRequest, connection: LibvirtConnection): Promise<Session> {
    const session = await this.#unmoved(known);
    const exists = (why: string): ApplianceError =>
      new ApplianceError('DOMAIN_EXISTS', `${session.name} ${why}`, {
        hint: `Choose another name with --as, or give it up with \`understudy stop ${session.name} --discard\`.`,
      });
    if (!isSameState(session, request) || session.connect !== request.connect) {
      const at = session.moment === undefined ? '' : `, sequence ${session.moment.sequence},`;
      throw exists(`is a booted machine of the point ${session.point.id}${at} on ${session.connect}`);
    }
    const state = await this.#machines.stateOf(session);
    const hasEnded = session.phase === 'running' && ['shut-off', 'crashed', 'gone'].includes(state);
    if (session.phase !== 'kept' && !hasEnded) throw exists(`is booted already (${state})`);
    if (state === 'kept' || state === 'gone') await checkMachineIsNew(connection, session.name, session.machineId);
    return { ...session, phase: 'resuming', ...(await ownerOf(connection)) };
  }

  /** Stores the session, then makes everything that it needs and starts it; after an error all of it is undone. */
  async #start(
    session: Session,
    by: { readonly request: BootRequest; readonly connection: LibvirtConnection; readonly context: RecoverContext },
  ): Promise<readonly string[]> {
    const { request, connection, context } = by;
    await this.#registry.put(session);
    try {
      const changes = await startSession({
        parts: this.#parts,
        store: this.#store,
        disks: this.#disks,
        connection,
        session,
        keepsNetwork: request.keepNetwork === true,
        logsConsole: request.logsConsole === true,
        context,
      });
      await this.#registry.move(session, 'running');
      return changes;
    } catch (error) {
      await this.#undo(session, error);
      throw bootError(session.name, error);
    }
  }

  /** After a failed boot: as it was before. What cannot be undone now is undone at the next start, or by `stop`. */
  async #undo(session: Session, because: unknown): Promise<void> {
    try {
      await this.#finish(session, () => undefined);
    } catch (error) {
      throw new ApplianceError('BOOT_FAILED', `${session.name} cannot be started, and not be removed again either`, {
        cause: new AggregateError([because, error], `${toError(because).message}; ${toError(error).message}`),
        hint: `Remove it with \`understudy stop ${session.name} --discard\`.`,
      });
    }
  }

  /** Brings a session out of a middle phase. A sentence about what was done, if anything was. */
  async #finish(session: Session, onNotice: (sentence: string) => void): Promise<string | undefined> {
    switch (session.phase) {
      case 'starting':
      case 'discarding':
        await this.#discard(session);
        return `${session.name} was interrupted while it was ${session.phase}; it is removed.`;
      case 'resuming':
      case 'stopping':
        await this.#keep(session);
        return `${session.name} was interrupted while it was ${session.phase}; it is stopped and kept.`;
      case 'rewinding':
        return this.#rewinds.finish(session);
      case 'running':
        if (session.migration === undefined) return undefined;
        return (await this.#migrations.settle(session, { onNotice, onProgress: () => undefined })).sentence;
      case 'kept':
        return undefined;
    }
  }

  /** No domain, no exports, the log closed and kept. */
  async #keep(session: Session): Promise<void> {
    const stopping = await this.#registry.move(session, 'stopping');
    await this.#machines.remove(stopping);
    await this.#endStretch(stopping);
    await this.#disks.remove(stopping);
    await this.#registry.move(stopping, 'kept');
  }

  /** Must work on a full disk, too: it is a way to free space. Then a crash leaves the session as it was, or nothing of it. */
  async #discard(session: Session): Promise<void> {
    try {
      await this.#registry.move(session, 'discarding');
    } catch (error) {
      if (!hasCode(error, 'NO_SPACE')) throw error;
    }
    if (session.phase !== 'kept') await this.#machines.remove(session);
    await this.#migrations.removeTargets(session, UNHEARD.onNotice);
    await this.#disks.remove(session);
    const problem = await this.#disks.forget(session);
    if (problem !== undefined) this.#parts.onNotice?.(problem);
    await this.#registry.forget(session);
  }

  /** Where it cannot be written (no room, a log that has failed), the journal says so before it takes anything else. */
  async #endStretch(session: Session): Promise<void> {
    try {
      await this.#disks.servedHistory(session)?.log.end('the machine was stopped');
    } catch (error) {
      if (!(error instanceof ApplianceError)) throw error;
    }
  }

  async #writtenBytes(session: Session): Promise<number> {
    return this.#disks.logBytes(session) ?? (await this.#store.logBytesOf(session));
  }
}

function stateSuffix({ point, moment }: RecoverableState): string {
  return moment === undefined ? point.id.slice(0, NAME_DIGITS) : `seq-${moment.sequence}`;
}

/** A moment is the same whichever point it was reached from. */
function isSameState(a: RecoverableState, b: RecoverableState): boolean {
  if (a.moment === undefined || b.moment === undefined) return a.moment === b.moment && a.point.id === b.point.id;
  return a.moment.logId === b.moment.logId && a.moment.sequence === b.moment.sequence;
}

async function ownerOf(connection: LibvirtConnection): Promise<{ qemuOwner?: QemuOwner }> {
  const owner = await qemuOwner(connection);
  return isForeign(owner) ? { qemuOwner: owner } : {};
}
