// SPDX-License-Identifier: Apache-2.0
import { type MarkedDevice, WriteMarks } from '../block/marked-device.ts';
import { throwIfAborted } from '../block/pipeline.ts';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import type { RecoverContext } from './context.ts';
import {
  type CopyOptions,
  canCopySynchronously,
  checkCopies,
  copyDisks,
  endCopies,
  type MovingDisk,
  readPlaces,
} from './migration-copy.ts';
import { finishMigration } from './migration-finish.ts';
import type { MigrationParts } from './migration-parts.ts';
import { type MigrateRequest, planMigration } from './migration-plan.ts';
import type { MadeTarget, MigrationRecord, MigrationTarget } from './migration-record.ts';
import { freeBytesOf, makeTarget, type PlaceAccess, placeWords, removeTarget } from './migration-targets.ts';
import { canVerify, type Verified, verifyCopy } from './migration-verify.ts';
import type { Session } from './session-store.ts';

export interface MigrateReport {
  readonly name: string;
  readonly machineId: string;
  readonly connect: string;
  readonly disks: readonly {
    readonly disk: string;
    readonly path: string;
    readonly format: string;
    readonly sizeBytes: number;
  }[];
  /** Bytes that were found equal in both places before the machine went over; null when nothing was compared now. */
  readonly verifiedBytes: number | null;
  /** Bytes that could not be compared, because the guest was writing them, to both places. */
  readonly busyBytes: number;
  /** From the call to the end. */
  readonly durationMs: number;
  /** The name that it gets when it is shut off the next time. */
  readonly nextName: string | null;
  /** Sentences: what is different now, and what is not. */
  readonly changes: readonly string[];
}

/** What is left of a migration after an interruption, with a sentence for the operator. */
export type Settlement =
  /** Taken back: the machine runs from the appliance as before, and nothing is left at the target. */
  | { readonly kind: 'back'; readonly session: Session; readonly sentence: string }
  /** The machine has left the appliance. */
  | { readonly kind: 'done'; readonly changes: readonly string[]; readonly sentence: string }
  /** Some disks have moved, others have not. */
  | { readonly kind: 'half'; readonly session: Session; readonly sentence: string };

/** Who hears of it. */
export type Told = Pick<RecoverContext, 'onNotice' | 'onProgress'>;

type Migrating = Session & { readonly migration: MigrationRecord };

/**
 * Moves booted machines to production storage while they run. libvirt's definition of the machine says, disk by disk, what
 * has moved: going over to a copy changes it in the same step. Hence the order: the record, the empty files, the copies,
 * the comparison, disk by disk the going over, the lasting definition, the end of the session; and what `settle` does after
 * a crash depends on nothing else.
 */
export class Migrations {
  readonly #with: MigrationParts;

  constructor(parts: MigrationParts) {
    this.#with = parts;
  }

  /**
   * Moves the machine of a session that nobody else works on. After an error or an abort before the first disk has moved
   * it runs from the appliance as before, and nothing is left at the target; after that nothing is taken back.
   * @throws ApplianceError BAD_ARGUMENT, DOMAIN_NOT_FOUND, DOMAIN_WRONG_STATE, MIGRATION_FAILED, MIGRATION_UNFINISHED, and
   *   as `planMigration`, `makeTarget`, `copyDisks`, `verifyCopy`
   */
  async migrate(session: Session, request: MigrateRequest, context: RecoverContext): Promise<MigrateReport> {
    const startedMs = this.#with.parts.clock.elapsedMs();
    const settled = isMigrating(session) ? await this.settle(session, context) : undefined;
    const { targets = [] } = session.migration ?? {};
    let changes: readonly string[];
    let verified: Verified | undefined;
    let record: MigrationRecord;
    if (settled?.kind === 'done') {
      changes = settled.changes;
      record = { ...(session as Migrating).migration, targets };
    } else {
      const begun =
        settled?.kind === 'half'
          ? withRecord(settled.session)
          : await this.#begin(settled?.session ?? session, request, context);
      verified = await this.#moveAll(begun, { request, context });
      record = begun.migration;
      ({ changes } = await this.#finish(begun, context));
    }
    return {
      name: session.name,
      machineId: session.machineId,
      connect: session.connect,
      disks: madeTargets(record.targets).map(({ disk, path, format, sizeBytes }) => ({
        disk,
        path,
        format,
        sizeBytes,
      })),
      verifiedBytes: verified?.equalBytes ?? null,
      busyBytes: verified?.busyBytes ?? 0,
      durationMs: Math.round(this.#with.parts.clock.elapsedMs() - startedMs),
      nextName: record.as ?? null,
      changes,
    };
  }

  /**
   * Brings a migration that was interrupted to one of its ends as far as that goes without copying; nothing happens to a
   * session without one. @throws ApplianceError those of libvirt; then it can be tried again
   */
  async settle(session: Session, told: Told): Promise<Settlement> {
    const { name } = session;
    if (!isMigrating(session)) return { kind: 'back', session, sentence: `${name} runs from the appliance.` };
    const { targets, place } = session.migration;
    const domain = await this.#domainOf(session);
    if (domain === undefined) {
      const sentence = `${name} was being moved to ${placeWords(place)}, and its definition is gone: both places are kept.`;
      return { kind: 'half', session, sentence };
    }
    if (await this.#isAnyMoved(domain, targets)) {
      await this.#moveReady(domain, targets);
      if ((await this.#unmoved(domain, targets)).length > 0) {
        const sentence = `${name} runs half from the appliance and half from ${placeWords(place)}: \`understudy migrate ${name}\` finishes that.`;
        return { kind: 'half', session, sentence };
      }
      const { changes } = await this.#finish(session, told);
      return { kind: 'done', changes, sentence: `${name} has been moved to ${placeWords(place)}.` };
    }
    await endCopies(domain, targets);
    const taken = await this.#takeBack(session, told.onNotice);
    const sentence = `The migration of ${name} was interrupted; it runs from the appliance as before.`;
    return { kind: 'back', session: taken, sentence };
  }

  /** Removes what was made at the target; only when the machine is gone. */
  async removeTargets(session: Session, onNotice: (sentence: string) => void): Promise<void> {
    if (!isMigrating(session)) return;
    const connection = await this.#with.parts.connectLibvirt(session.connect);
    const access = this.#access(session, connection, onNotice);
    for (const target of session.migration.targets) {
      const left = await removeTarget(access, target);
      if (left !== undefined) onNotice(left);
    }
  }

  /** Checks, stores the record, and makes the empty storage. */
  async #begin(session: Session, request: MigrateRequest, context: RecoverContext): Promise<Migrating> {
    const { place } = request;
    if (place === undefined) {
      throw new ApplianceError('BAD_ARGUMENT', 'a migration goes to a directory (--dir) or a storage pool (--pool)');
    }
    const { registry, disks, store, parts } = this.#with;
    const domain = await this.#runningDomain(session);
    const connection = await parts.connectLibvirt(session.connect);
    const access = { ...this.#access(session, connection, context.onNotice), place };
    context.onProgress({ phase: 'looking at the disks', done: 0, total: 0, unit: 'bytes' });
    const { record, notices } = await planMigration({
      session,
      request: { ...request, place },
      access,
      xml: await domain.xml(),
      exports: disks.names(session),
      deviceOf: (disk) => disks.device(session, disk),
      nvramPath: store.nvramPathOf(session),
      signal: context.signal,
    });
    for (const notice of notices) context.onNotice(notice);
    let current: Migrating = { ...session, migration: record };
    await registry.put(current);
    try {
      for (const [done, target] of record.targets.entries()) {
        throwIfAborted(context.signal);
        context.onProgress({ phase: 'making room', done, total: record.targets.length, unit: 'items' });
        await makeTarget(access, target, async (made) => {
          current = withTarget(current, made);
          await registry.put(current);
        });
      }
      return current;
    } catch (error) {
      throw await this.#afterFailure(current, { error, told: context });
    }
  }

  /** Copies, compares and goes over, for every disk that has not moved yet. */
  async #moveAll(
    session: Migrating,
    { request, context }: { readonly request: MigrateRequest; readonly context: RecoverContext },
  ): Promise<Verified | undefined> {
    const { parts } = this.#with;
    const moving: MovingDisk[] = [];
    try {
      const domain = await this.#runningDomain(session);
      const connection = await parts.connectLibvirt(session.connect);
      const access = this.#access(session, connection, context.onNotice);
      await endCopies(domain, session.migration.targets);
      for (const target of await this.#unmoved(domain, session.migration.targets)) {
        moving.push({ target, device: this.#marked(session, target.disk) });
      }
      const options: CopyOptions = {
        domain,
        disks: moving,
        bandwidthBytes: request.bandwidthBytes,
        isSynchronous: await canCopySynchronously(connection),
        freeBytes: () => freeBytesOf(access),
        context,
      };
      await copyDisks(options);
      const verified = request.verifies === false ? undefined : await this.#verify(moving, context);
      throwIfAborted(context.signal);
      await checkCopies(options);
      // From the first disk on, what is written here is no state of the machine.
      await (await this.#with.disks.history(session)).log.leave('its disks moved to production storage');
      await this.#goOver(domain, moving, context);
      return verified;
    } catch (error) {
      throw await this.#afterFailure(session, { error, told: context });
    } finally {
      for (const { device } of moving) device.marks = undefined;
    }
  }

  /** Undefined when no copy could be looked at. */
  async #verify(disks: readonly MovingDisk[], context: RecoverContext): Promise<Verified | undefined> {
    const total = disks.reduce((sum, { device }) => sum + device.sizeBytes, 0);
    let before = 0;
    let sum: Verified | undefined;
    for (const disk of disks) {
      if (await canVerify(disk)) {
        const { equalBytes, busyBytes } = await verifyCopy(disk, {
          directory: this.#with.parts.runtimeDirectory,
          signal: context.signal,
          onProgress: (done) => context.onProgress({ phase: 'comparing', done: before + done, total, unit: 'bytes' }),
        });
        sum = { equalBytes: (sum?.equalBytes ?? 0) + equalBytes, busyBytes: (sum?.busyBytes ?? 0) + busyBytes };
      } else {
        context.onNotice(
          `${disk.target.path} belongs to QEMU's user, and cannot be compared with ${disk.target.disk}.`,
        );
      }
      before += disk.device.sizeBytes;
    }
    return sum;
  }

  /** From the first disk on there is no way back, and no interruption. */
  async #goOver(domain: Domain, disks: readonly MovingDisk[], context: RecoverContext): Promise<void> {
    for (const [index, { target }] of disks.entries()) {
      context.onProgress({ phase: 'going over', done: index, total: disks.length, unit: 'items' });
      await domain.abortBlockJob(target.disk, { isPivot: true });
    }
    context.onProgress({ phase: 'going over', done: disks.length, total: disks.length, unit: 'items' });
    const left = await this.#unmoved(
      domain,
      disks.map(({ target }) => target),
    );
    if (left.length > 0) throw new ApplianceError('MIGRATION_FAILED', `${left[0]?.disk} did not go over to its copy`);
  }

  async #finish(session: Migrating, { onNotice, onProgress }: Told): Promise<{ changes: readonly string[] }> {
    const domain = await this.#domainOf(session);
    invariant(domain !== undefined, 'a machine that is finished was found');
    const connection = await this.#with.parts.connectLibvirt(session.connect);
    return await finishMigration({
      ...this.#with,
      connection,
      domain,
      session,
      targets: madeTargets(session.migration.targets),
      onNotice,
      onStep: (done, total) => onProgress({ phase: 'letting it go', done, total, unit: 'items' }),
    });
  }

  /** What to tell after an error, when everything was settled as far as it goes. */
  async #afterFailure(
    session: Migrating,
    { error, told }: { readonly error: unknown; readonly told: Told },
  ): Promise<unknown> {
    try {
      const settled = await this.settle(session, told);
      if (settled.kind === 'back') return error;
      return new ApplianceError('MIGRATION_UNFINISHED', `${toError(error).message}. ${settled.sentence}`, {
        cause: error,
      });
    } catch (second) {
      told.onNotice(
        `What was made at the target stays for now: ${toError(second).message}. \`understudy migrate ${session.name}\` or the next start of the service removes it.`,
      );
      return error;
    }
  }

  async #takeBack(session: Migrating, onNotice: (sentence: string) => void): Promise<Session> {
    await this.removeTargets(session, onNotice);
    const { migration: _, ...taken } = session;
    await this.#with.registry.put(taken);
    return taken;
  }

  /** Copies that are ready go over: the decision was made when the first one did. */
  async #moveReady(domain: Domain, targets: readonly MigrationTarget[]): Promise<void> {
    const { state } = await domain.state();
    if (state === 'shut-off' || state === 'crashed') return;
    const places = readPlaces(await domain.xml(), targets);
    for (const { disk } of targets) {
      if (places.get(disk)?.isReady !== true) continue;
      try {
        await domain.abortBlockJob(disk, { isPivot: true });
      } catch (error) {
        if (!hasCode(error, 'NO_BLOCK_JOB', 'DOMAIN_BUSY', 'DOMAIN_WRONG_STATE', 'LIBVIRT_FAILED')) throw error;
      }
    }
  }

  async #isAnyMoved(domain: Domain, targets: readonly MigrationTarget[]): Promise<boolean> {
    return [...(await placesOf(domain, targets)).values()].some(({ isMoved }) => isMoved);
  }

  async #unmoved(domain: Domain, targets: readonly MigrationTarget[]): Promise<MadeTarget[]> {
    const places = await placesOf(domain, targets);
    return madeTargets(targets).filter(({ disk }) => places.get(disk)?.isMoved === false);
  }

  #marked(session: Session, disk: string): MarkedDevice {
    const device = this.#with.disks.device(session, disk);
    device.marks = new WriteMarks(device.sizeBytes);
    return device;
  }

  async #domainOf(session: Session): Promise<Domain | undefined> {
    const connection = await this.#with.parts.connectLibvirt(session.connect);
    try {
      return await connection.domainByUuid(session.machineId);
    } catch (error) {
      if (hasCode(error, 'DOMAIN_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  async #runningDomain(session: Session): Promise<Domain> {
    const domain = await this.#with.machines.find(session);
    if (domain === undefined) {
      throw new ApplianceError('DOMAIN_NOT_FOUND', `the machine ${session.name} is not defined any more`);
    }
    const { state } = await domain.state();
    if (state === 'running' || state === 'paused' || state === 'blocked') return domain;
    throw new ApplianceError('DOMAIN_WRONG_STATE', `${session.name} is ${state}; a machine is moved while it runs`, {
      hint: `Start it with \`virsh start ${session.name}\` first.`,
    });
  }

  #access(session: Session, connection: LibvirtConnection, onNotice: (sentence: string) => void): PlaceAccess {
    const place = session.migration?.place ?? { kind: 'directory', path: this.#with.parts.stateDirectory };
    return { place, connection, owner: session.qemuOwner, onNotice };
  }
}

async function placesOf(domain: Domain, targets: readonly MigrationTarget[]): ReturnType<typeof asPlaces> {
  const { state } = await domain.state();
  const isOff = state === 'shut-off' || state === 'crashed';
  return asPlaces(await domain.xml({ isInactive: isOff }), targets);
}

async function asPlaces(xml: string, targets: readonly MigrationTarget[]): Promise<ReturnType<typeof readPlaces>> {
  return readPlaces(xml, targets);
}

function isMigrating(session: Session): session is Migrating {
  return session.migration !== undefined;
}

function withRecord(session: Session): Migrating {
  invariant(isMigrating(session), 'a migration that is half done has a record');
  return session;
}

function withTarget(session: Migrating, made: MigrationTarget): Migrating {
  const targets = session.migration.targets.map((target) => (target.disk === made.disk ? made : target));
  return { ...session, migration: { ...session.migration, targets } };
}

function madeTargets(targets: readonly MigrationTarget[]): MadeTarget[] {
  return targets.filter((target): target is MadeTarget => target.path !== undefined);
}
