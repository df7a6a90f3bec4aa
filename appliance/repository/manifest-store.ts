// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { type MachineId, type PointId, parseMachineId, parsePointId } from '../core/ids.ts';
import { corruptObject } from './authenticated-json.ts';
import { type DeletedPoint, decodeDeletedPoint, deletedPointKey, encodeDeletedPoint } from './deleted-point.ts';
import { decodeManifest, encodeManifest, manifestKey, type RecoveryPoint } from './manifest.ts';
import type { ObjectStore } from './object-store.ts';
import type { PointGuards } from './point-guards.ts';

const POINTS = 'points/';
const DELETED = 'deleted/';
const NAME = /^(?:points|deleted)\/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\/([0-9a-f]{16})\.json$/;

/** Names one manifest without reading it. */
export interface ManifestRef {
  readonly machineId: MachineId;
  readonly pointId: PointId;
}

/**
 * The recovery points of a repository: a point exists exactly while its manifest does.
 *
 * Deleting moves a manifest from `points/` to `deleted/`, the copy being durable before the original goes; bringing it
 * back is the same the other way round. A crash in between leaves both, and then the point exists. A point that is held or
 * locked does not end: `delete` and `purge` ask `guards` in the turn in which they act, and holds and locks are placed in one.
 */
export class ManifestStore {
  readonly #store: ObjectStore;
  readonly #key: KeyObject;
  readonly #guards: PointGuards;
  /** Deleted points that garbage collection has decided to remove. */
  readonly #condemned = new Set<PointId>();
  #turn: Promise<unknown> = Promise.resolve();

  constructor(store: ObjectStore, key: KeyObject, guards: PointGuards) {
    this.#store = store;
    this.#key = key;
    this.#guards = guards;
  }

  /** Makes the point exist; durable when settled. Everything that it names must be durable before. */
  async put(point: RecoveryPoint): Promise<void> {
    const bytes = encodeManifest(point, this.#key);
    decodeManifest(bytes, this.#key, point.id);
    await this.#store.put(manifestKey(point.machine.id, point.id), bytes);
  }

  /** @throws ApplianceError OBJECT_NOT_FOUND, REPOSITORY_CORRUPT, REPOSITORY_FORMAT */
  async get(ref: ManifestRef): Promise<RecoveryPoint> {
    const key = manifestKey(ref.machineId, ref.pointId);
    const point = decodeManifest(await this.#store.get(key), this.#key, key);
    checkIdentity(point, ref, key);
    return point;
  }

  /** @throws ApplianceError OBJECT_NOT_FOUND, REPOSITORY_CORRUPT, REPOSITORY_FORMAT */
  async getDeleted(ref: ManifestRef): Promise<DeletedPoint> {
    const key = deletedPointKey(ref.machineId, ref.pointId);
    const deleted = decodeDeletedPoint(await this.#store.get(key), this.#key, key);
    checkIdentity(deleted.point, ref, key);
    return deleted;
  }

  /** True when the point exists, in whatever state its manifest is. @throws ApplianceError IO_FAILED */
  async has(ref: ManifestRef): Promise<boolean> {
    try {
      await this.#store.get(manifestKey(ref.machineId, ref.pointId));
      return true;
    } catch (error) {
      if (hasCode(error, 'OBJECT_NOT_FOUND')) return false;
      throw error;
    }
  }

  /** Every manifest there is. A file that is not one fails the listing: it might be a damaged name. */
  async list(): Promise<ManifestRef[]> {
    return (await this.#store.list(POINTS)).map(({ key }) => refOf(key) ?? refuse(key));
  }

  /** The same, with the object keys that are no manifest's apart. */
  async listWithStrays(): Promise<{ readonly refs: ManifestRef[]; readonly strays: string[] }> {
    const refs: ManifestRef[] = [];
    const strays: string[] = [];
    for (const { key } of await this.#store.list(POINTS)) {
      const ref = refOf(key);
      if (ref === undefined) strays.push(key);
      else refs.push(ref);
    }
    return { refs, strays };
  }

  /** Every deleted point that can be brought back. */
  async listDeleted(): Promise<ManifestRef[]> {
    const listed = new Set((await this.listWithStrays()).refs.map(({ pointId }) => pointId));
    return (await this.listDeletedCopies()).filter(({ pointId }) => !listed.has(pointId));
  }

  /** Every object in `deleted/`, also of a point that exists because its deletion was cut short. */
  async listDeletedCopies(): Promise<ManifestRef[]> {
    return (await this.#store.list(DELETED)).map(({ key }) => refOf(key) ?? refuse(key));
  }

  /**
   * Ends a point; `undelete` brings it back until garbage collection finds its grace period over. Durable when settled.
   * @throws ApplianceError POINT_LOCKED, POINT_HELD, OBJECT_NOT_FOUND, REPOSITORY_CORRUPT (use `purge`), NO_SPACE (the copy has
   * no room: `purge`)
   */
  delete(ref: ManifestRef, nowMs: number): Promise<void> {
    return this.#inTurn(async () => {
      await this.#guards.refuseDeletion(ref);
      const point = await this.get(ref);
      const deletedAt = new Date(nowMs).toISOString();
      const copy = encodeDeletedPoint(point, { deletedAt, ...(await this.#livedTime()) }, this.#key);
      await this.#store.replace(deletedPointKey(ref.machineId, ref.pointId), copy);
      await this.#store.delete(manifestKey(ref.machineId, ref.pointId));
    });
  }

  /**
   * Has the grace period of a deleted point begin now, for a copy that does not tell when it began. Call it in
   * `whileUnchanged`. Without room for it nothing happens. @throws ApplianceError REPOSITORY_CORRUPT, IO_FAILED
   */
  async beginGrace(ref: ManifestRef, { point, deletedAt }: DeletedPoint): Promise<void> {
    const lived = await this.#livedTime();
    if (lived === undefined) return;
    try {
      const copy = encodeDeletedPoint(point, { deletedAt, ...lived }, this.#key);
      await this.#store.replace(deletedPointKey(ref.machineId, ref.pointId), copy);
    } catch (error) {
      if (!hasCode(error, 'NO_SPACE')) throw error;
    }
  }

  /** Brings a deleted point back. @throws ApplianceError POINT_NOT_FOUND, REPOSITORY_CORRUPT, REPOSITORY_FORMAT, NO_SPACE */
  undelete(ref: ManifestRef): Promise<RecoveryPoint> {
    return this.#inTurn(async () => {
      const { point } = await this.#getForUndelete(ref);
      try {
        await this.#store.put(manifestKey(ref.machineId, ref.pointId), encodeManifest(point, this.#key));
      } catch (error) {
        if (!hasCode(error, 'OBJECT_EXISTS')) throw error;
      }
      await this.#store.delete(deletedPointKey(ref.machineId, ref.pointId));
      return point;
    });
  }

  /** Ends a point for good, deleted before or not, whatever state its manifest is in. Needs no space. @throws ApplianceError POINT_LOCKED, POINT_HELD */
  purge(ref: ManifestRef): Promise<void> {
    return this.#inTurn(async () => {
      await this.#guards.refuseDeletion(ref);
      // The listed one last: interrupted in between, the point is as it was.
      await this.#store.delete(deletedPointKey(ref.machineId, ref.pointId));
      await this.#store.delete(manifestKey(ref.machineId, ref.pointId));
      await this.#guards.forget(ref);
    });
  }

  /** Runs while no point is being deleted or brought back: what it lists stays so, except for new points. */
  whileUnchanged<T>(work: () => Promise<T>): Promise<T> {
    return this.#inTurn(work);
  }

  /** From here on these deleted points cannot be brought back; `pardon` takes it back. Call it in `whileUnchanged`. */
  condemn(points: Iterable<PointId>): void {
    for (const point of points) this.#condemned.add(point);
  }

  pardon(points: Iterable<PointId>): void {
    for (const point of points) this.#condemned.delete(point);
  }

  /**
   * The lived time, written down, so that another process goes on from there; undefined when it cannot be told or written: a
   * point can be deleted all the same, and its grace period begins when a collection finds it possible.
   */
  async #livedTime(): Promise<{ readonly deletedLivedMs: number } | undefined> {
    try {
      await this.#guards.beginRecord();
      return { deletedLivedMs: await this.#guards.livedMs() };
    } catch (error) {
      if (!hasCode(error, 'NO_SPACE', 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT')) throw error;
      return undefined;
    }
  }

  async #getForUndelete(ref: ManifestRef): Promise<DeletedPoint> {
    const { pointId } = ref;
    if (this.#condemned.has(pointId)) throw new ApplianceError('POINT_NOT_FOUND', `point ${pointId} is being removed`);
    try {
      return await this.getDeleted(ref);
    } catch (cause) {
      if (!hasCode(cause, 'OBJECT_NOT_FOUND')) throw cause;
      throw new ApplianceError('POINT_NOT_FOUND', `there is no deleted point ${pointId}`, { cause });
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work, work);
    this.#turn = turn.then(
      () => undefined,
      () => undefined,
    );
    return turn;
  }
}

/** The point that an object of `points/` or `deleted/` is about; undefined for a name that none has. */
export function refOf(key: string): ManifestRef | undefined {
  const [, machine, point] = NAME.exec(key) ?? [];
  if (machine === undefined || point === undefined) return undefined;
  return { machineId: parseMachineId(machine), pointId: parsePointId(point) };
}

function refuse(key: string): never {
  throw new ApplianceError('REPOSITORY_CORRUPT', `${key} does not belong into a repository`, {
    details: { object: key },
    hint: 'Move the file out of the repository; nothing there has such a name.',
  });
}

function checkIdentity(point: RecoveryPoint, ref: ManifestRef, key: string): void {
  if (point.id !== ref.pointId || point.machine.id !== ref.machineId) {
    throw corruptObject(key, 'describes another point');
  }
}
