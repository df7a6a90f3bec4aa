// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { type PointId, parseMachineId, parsePointId } from '../core/ids.ts';
import type { HostUptime } from '../core/uptime.ts';
import { FORMAT_VERSION } from './format.ts';
import { LivedTime } from './lived-time.ts';
import type { ObjectStore } from './object-store.ts';
import {
  decodeGuard,
  encodeGuard,
  GUARD_KINDS,
  type GuardedPoint,
  type GuardKind,
  guardKey,
  MAX_REASON,
  type PointGuard,
} from './point-guard.ts';

/** Locks reach so far at most: further is a slip of the pen that nobody could mend. */
export const MAX_LOCK_YEARS = 30;
const MAX_LOCK_MS: number = MAX_LOCK_YEARS * 366 * 24 * 3_600_000;
const NAME = /^(hold|lock)s\/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\/([0-9a-f]{16})\.json$/;
const READ_BATCH = 64;

/** What guards a point now. */
export interface GuardState {
  readonly hold?: PointGuard;
  readonly lock?: PointGuard;
}

/** When a guard began, and when it ends. */
type GuardSpan = Pick<PointGuard, 'since' | 'until' | 'sinceLivedMs' | 'untilLivedMs'>;

/** The objects of one point. An error stands for one that cannot be read, which guards as well as any. */
type StoredGuards = Readonly<Partial<Record<GuardKind, PointGuard | ApplianceError>>>;

/**
 * Holds and locks of recovery points, beside the manifests. `ManifestStore` asks here before a point is deleted, and garbage
 * collection before one is removed for good, so that no way to either leads past it.
 *
 * A date has come when the clock says so and the appliance has also lived through the time that lay before it when it was
 * set (`LivedTime`): a clock that is set forward ends nothing. A guard that cannot be read is in force.
 *
 * Invariant: a lock's date never moves back, and no lock that is in force is removed.
 */
export class PointGuards {
  readonly #store: ObjectStore;
  readonly #key: KeyObject;
  readonly #clock: Clock;
  readonly #lived: LivedTime;
  /** No guard that was read was placed later, in lived time. */
  #floorMs = 0;
  #known: Promise<Map<PointId, { readonly point: GuardedPoint; readonly stored: StoredGuards }>> | undefined;

  constructor(
    store: ObjectStore,
    key: KeyObject,
    { clock, uptime }: { readonly clock: Clock; readonly uptime: () => HostUptime },
  ) {
    this.#store = store;
    this.#key = key;
    this.#clock = clock;
    this.#lived = new LivedTime(store, key, uptime);
  }

  /**
   * What guards a point now; empty when nothing does.
   * @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT, IO_FAILED: then it must be taken for guarded
   */
  async inForce(point: GuardedPoint): Promise<GuardState> {
    const stored = (await this.#all()).get(point.pointId)?.stored ?? {};
    const state: { hold?: PointGuard; lock?: PointGuard } = {};
    for (const kind of GUARD_KINDS) {
      const guard = stored[kind];
      if (guard instanceof ApplianceError) throw guard;
      if (guard !== undefined && (await this.#leftMs(guard)) > 0) state[kind] = guard;
    }
    return state;
  }

  /** The points that something is stored for, whether it is in force or not: nothing guards any other. Errors as the repository's list. */
  async guarded(): Promise<ReadonlySet<PointId>> {
    return new Set((await this.#all()).keys());
  }

  /** Throws unless the point may be deleted. Looks at the stored objects anew. @throws ApplianceError POINT_LOCKED, POINT_HELD, and as `inForce` */
  async refuseDeletion(point: GuardedPoint): Promise<void> {
    await this.#reread(point);
    const { hold, lock } = await this.inForce(point);
    if (lock !== undefined) throw await this.#locked(lock);
    if (hold !== undefined) {
      const why = hold.reason === '' ? '' : `: ${hold.reason}`;
      throw new ApplianceError('POINT_HELD', `recovery point ${point.pointId} is held${why}`, {
        details: { point: point.pointId, reason: hold.reason, until: hold.until },
        hint: `\`understudy release ${point.pointId}\` ends the hold.`,
      });
    }
  }

  /** Places a hold, or changes the one there is. Durable when settled. @throws ApplianceError BAD_ARGUMENT, NO_SPACE, IO_FAILED */
  async hold(
    point: GuardedPoint,
    { reason, untilMs }: { readonly reason: string; readonly untilMs: number | null },
  ): Promise<PointGuard> {
    if (reason.length > MAX_REASON) {
      throw new ApplianceError('BAD_ARGUMENT', `the reason of a hold has at most ${MAX_REASON} characters`);
    }
    return this.#put('hold', point, { reason, span: await this.#span(untilMs) });
  }

  /** Ends a hold, in whatever state it is. False when there was none. */
  async release(point: GuardedPoint): Promise<boolean> {
    const known = await this.#all();
    const { hold, ...rest } = known.get(point.pointId)?.stored ?? {};
    await this.#store.delete(guardKey('hold', point));
    known.set(point.pointId, { point, stored: rest });
    return hold !== undefined;
  }

  /**
   * Locks a point until a date, or extends its lock. Durable when settled.
   * @throws ApplianceError POINT_LOCKED (it is locked for longer already), BAD_ARGUMENT, REPOSITORY_CORRUPT, NO_SPACE, IO_FAILED
   */
  async lock(point: GuardedPoint, untilMs: number): Promise<PointGuard> {
    if (untilMs - this.#clock.nowMs() > MAX_LOCK_MS) {
      throw new ApplianceError('BAD_ARGUMENT', `a lock lasts ${MAX_LOCK_YEARS} years at most`);
    }
    await this.#reread(point);
    const { lock: before } = await this.inForce(point);
    if (before !== undefined && untilMs < Date.parse(before.until ?? '')) throw await this.#locked(before);
    const span = await this.#span(untilMs);
    const untilLivedMs = Math.max(before?.untilLivedMs ?? 0, span.untilLivedMs ?? 0);
    return this.#put('lock', point, { reason: '', span: { ...span, untilLivedMs } });
  }

  /** Removes what is left of a point that is gone for good. */
  async forget(point: GuardedPoint): Promise<void> {
    for (const kind of GUARD_KINDS) await this.#store.delete(guardKey(kind, point));
    (await this.#all()).delete(point.pointId);
  }

  /**
   * Writes down how long the appliance has lived, if a date may wait for it: of a hold, of a lock, or of a deleted point. To be
   * called now and then. Errors as `LivedTime.record`.
   */
  async recordTime(): Promise<void> {
    const known = [...(await this.#all()).values()];
    const waits = known.some(({ stored }) => GUARD_KINDS.some((kind) => isDated(stored[kind])));
    if (waits || (await this.#lived.isRecorded())) await this.beginRecord();
  }

  /** Writes down how long the appliance has lived, and has `recordTime` do so from here on. Errors as `LivedTime.record`. */
  async beginRecord(): Promise<void> {
    await this.#all();
    await this.#lived.record(this.#floorMs);
  }

  /** How long the appliance has lived (`LivedTime`), which the grace periods of deleted points count by. Errors as `LivedTime.now`. */
  async livedMs(): Promise<number> {
    await this.#all();
    return this.#lived.now(this.#floorMs);
  }

  /** The object keys of all guards, for `check`. */
  async keys(): Promise<string[]> {
    return [...(await this.#all()).values()].flatMap(({ point, stored }) =>
      GUARD_KINDS.filter((kind) => stored[kind] !== undefined).map((kind) => guardKey(kind, point)),
    );
  }

  /** Reads a guard as it is stored. @throws ApplianceError OBJECT_NOT_FOUND, REPOSITORY_CORRUPT, REPOSITORY_FORMAT, IO_FAILED */
  async read(object: string): Promise<PointGuard> {
    const { kind, point } = guardOf(object);
    return decodeGuard(await this.#store.get(object), this.#key, { kind, point });
  }

  async #put(
    kind: GuardKind,
    point: GuardedPoint,
    { reason, span }: { readonly reason: string; readonly span: GuardSpan },
  ): Promise<PointGuard> {
    const known = await this.#all();
    const guard: PointGuard = {
      format: `understudy-${kind}`,
      version: FORMAT_VERSION,
      point: point.pointId,
      machine: point.machineId,
      reason,
      ...span,
    };
    const bytes = encodeGuard(guard, this.#key);
    decodeGuard(bytes, this.#key, { kind, point });
    await this.#store.replace(guardKey(kind, point), bytes);
    this.#floorMs = Math.max(this.#floorMs, guard.sinceLivedMs);
    known.set(point.pointId, { point, stored: { ...known.get(point.pointId)?.stored, [kind]: guard } });
    await this.recordTime();
    return guard;
  }

  /** From now to a date, by the clock and by what is still to be lived through. */
  async #span(untilMs: number | null): Promise<GuardSpan> {
    const nowMs = Math.floor(this.#clock.nowMs());
    const since = new Date(nowMs).toISOString();
    const sinceLivedMs = await this.livedMs();
    if (untilMs === null) return { since, until: null, sinceLivedMs, untilLivedMs: null };
    if (untilMs <= nowMs) throw new ApplianceError('BAD_ARGUMENT', 'the date must lie in the future');
    const until = new Date(untilMs).toISOString();
    return { since, until, sinceLivedMs, untilLivedMs: sinceLivedMs + Math.ceil(untilMs) - nowMs };
  }

  /** Until the guard ends; infinite without a date, 0 when it has ended. */
  async #leftMs({ until, untilLivedMs }: PointGuard): Promise<number> {
    if (until === null || untilLivedMs === null) return Number.POSITIVE_INFINITY;
    const byClockMs = Date.parse(until) - this.#clock.nowMs();
    if (byClockMs > 0) return byClockMs;
    return Math.max(0, untilLivedMs - (await this.livedMs()));
  }

  async #locked(lock: PointGuard): Promise<ApplianceError> {
    const leftMs = await this.#leftMs(lock);
    const isDue = Date.parse(lock.until ?? '') <= this.#clock.nowMs();
    const hours = Math.ceil(leftMs / 3_600_000);
    const why = isDue
      ? `; by the clock that is over, but of the time until then the appliance has still ${hours} hours to live through`
      : '';
    return new ApplianceError('POINT_LOCKED', `recovery point ${lock.point} is locked until ${lock.until}${why}`, {
      details: { point: lock.point, until: lock.until, leftMs },
    });
  }

  /** Every guard there is. What is known stays known when a listing should come back short. */
  #all(): Promise<Map<PointId, { readonly point: GuardedPoint; readonly stored: StoredGuards }>> {
    this.#known ??= this.#load().catch((error: unknown) => {
      this.#known = undefined;
      throw error;
    });
    return this.#known;
  }

  async #load(): Promise<Map<PointId, { readonly point: GuardedPoint; readonly stored: StoredGuards }>> {
    const points = new Map<PointId, GuardedPoint>();
    for (const kind of GUARD_KINDS) {
      for (const { key } of await this.#store.list(`${kind}s/`)) {
        const { point } = guardOf(key);
        points.set(point.pointId, point);
      }
    }
    const found: [PointId, { readonly point: GuardedPoint; readonly stored: StoredGuards }][] = [];
    const all = [...points.values()];
    for (let at = 0; at < all.length; at += READ_BATCH) {
      const batch = all.slice(at, at + READ_BATCH);
      const stored = await Promise.all(batch.map((point) => this.#readBoth(point)));
      for (const [n, point] of batch.entries()) found.push([point.pointId, { point, stored: stored[n] ?? {} }]);
    }
    return new Map(found);
  }

  /** A listing may be short where a name is not: what is stored under the point's own names counts as well. */
  async #reread(point: GuardedPoint): Promise<void> {
    const known = await this.#all();
    const stored = { ...known.get(point.pointId)?.stored, ...(await this.#readBoth(point)) };
    if (Object.keys(stored).length > 0) known.set(point.pointId, { point, stored });
  }

  async #readBoth(point: GuardedPoint): Promise<StoredGuards> {
    const stored: Partial<Record<GuardKind, PointGuard | ApplianceError>> = {};
    for (const kind of GUARD_KINDS) {
      try {
        const guard = await this.read(guardKey(kind, point));
        this.#floorMs = Math.max(this.#floorMs, guard.sinceLivedMs);
        stored[kind] = guard;
      } catch (error) {
        if (hasCode(error, 'OBJECT_NOT_FOUND')) continue;
        if (!hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT')) throw error;
        stored[kind] = error;
      }
    }
    return stored;
  }
}

function isDated(guard: PointGuard | ApplianceError | undefined): boolean {
  return guard !== undefined && !(guard instanceof ApplianceError) && guard.until !== null;
}

/** @throws ApplianceError REPOSITORY_CORRUPT */
function guardOf(object: string): { readonly kind: GuardKind; readonly point: GuardedPoint } {
  const [, kind, machine = '', point = ''] = NAME.exec(object) ?? [];
  if (kind === 'hold' || kind === 'lock') {
    return { kind, point: { machineId: parseMachineId(machine), pointId: parsePointId(point) } };
  }
  throw new ApplianceError('REPOSITORY_CORRUPT', `${object} does not belong into a repository`, {
    details: { object },
    hint: 'Move the file out of the repository; nothing there has such a name.',
  });
}
