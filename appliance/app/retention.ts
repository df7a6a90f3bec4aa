// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import type { OperationContext } from '../api/operations.ts';
import type {
  RetentionApplyParams,
  RetentionApplyReport,
  RetentionParams,
  RetentionReport,
} from '../api/schemas/retention.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { byAge, pointsOfMachine } from '../protect/point-selector.ts';
import { Calendar } from '../protect/retention/calendar.ts';
import { decideRetention, type RetentionPoint, type RetentionTerms } from '../protect/retention/decide.ts';
import { parseSpan, type RetentionRule } from '../protect/retention/rule.ts';
import { MAX_TOUCHES, traceDamage } from '../repository/damage-trace.ts';
import { DEFAULT_GRACE_MS } from '../repository/garbage-collector.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Core } from './core.ts';
import { endPoint } from './point-removal.ts';
import { PointUsers, usersOf } from './point-users.ts';

const LOST = 'lost: its manifest disappeared';

/**
 * Says of every point of a machine, or of all, whether it stays. Nothing is changed. Every manifest is read, and whatever
 * cannot be read fails it: a point that is not there must not be what another one goes for.
 * @throws ApplianceError BAD_ARGUMENT, MACHINE_NOT_FOUND, REPOSITORY_CORRUPT, OBJECT_NOT_FOUND, IO_FAILED, ABORTED
 */
export async function retentionPreview(
  core: Core,
  clock: Clock,
  params: RetentionParams,
  context: OperationContext,
): Promise<RetentionReport> {
  return (await plan(core, clock, params, context)).report;
}

/**
 * Deletes the points that go, softly: `undelete` brings each back for as long as after `delete`. What to delete is decided
 * anew, from the oldest on; whether a point is used, held or locked is asked again right before it goes. Interrupted, it has
 * deleted some of them, and the same call goes on.
 * @throws ApplianceError as `retentionPreview`, all before the first deletion; CONFIRMATION_NEEDED; NO_SPACE
 */
export async function retentionApply(
  core: Core,
  clock: Clock,
  params: RetentionApplyParams,
  context: OperationContext,
): Promise<RetentionApplyReport> {
  const { report, going } = await plan(core, clock, params, context);
  if (params.plan !== undefined && params.plan !== report.plan) {
    throw new ApplianceError('CONFIRMATION_NEEDED', 'other points would go now than were shown; nothing was deleted', {
      hint: 'Look at `understudy retention preview` again.',
    });
  }
  const nowMs = clock.nowMs();
  const deleted: { point: string; machine: string }[] = [];
  const spared: { point: string; machine: string; reason: string }[] = [];
  for (const [n, point] of going.entries()) {
    throwIfAborted(context.signal);
    const named = { point: point.id, machine: point.machine.name };
    const reason = await deleteUnlessGuarded(core, clock, point);
    if (reason === undefined) deleted.push(named);
    else spared.push({ ...named, reason });
    context.onProgress({ phase: 'deleting', done: n + 1, total: going.length, unit: 'items' });
  }
  const recoverableUntil = deleted.length === 0 ? null : new Date(nowMs + DEFAULT_GRACE_MS).toISOString();
  return { ...report, deleted, spared, recoverableUntil };
}

interface Plan {
  readonly report: RetentionReport;
  /** Oldest first. */
  readonly going: readonly RecoveryPoint[];
}

async function plan(core: Core, clock: Clock, params: RetentionParams, context: OperationContext): Promise<Plan> {
  const terms: RetentionTerms = {
    rule: ruleOf(params),
    timeZone: params.timeZone ?? Intl.DateTimeFormat().resolvedOptions().timeZone,
    nowMs: clock.nowMs(),
  };
  // Fails for an unknown time zone, also where there is no point.
  const { timeZone } = new Calendar(terms.timeZone);
  const listed = chosenPoints(await core.catalog.points(), params);
  const lost = chosenPoints(await core.catalog.lostPoints(), params);
  if (params.machine !== undefined && listed.length + lost.length === 0) {
    throw new ApplianceError('MACHINE_NOT_FOUND', `there are no recovery points of a machine ${params.machine}`, {
      hint: 'List all points with `understudy points`.',
    });
  }
  const facts = await factsOf(core, listed, context);
  for (const point of lost) facts.set(point.id, { ...bareFacts(point), defect: LOST });
  const byId = new Map([...listed, ...lost].map((point) => [point.id as string, point]));
  const points = byMachine([...byId.values()]).flatMap((ofMachine) => {
    const known = ofMachine.flatMap(({ id }) => facts.get(id) ?? []);
    return decideRetention(known, terms).map(({ id, keep, reasons }) => ({ point: byId.get(id), keep, reasons }));
  });
  const going = points.flatMap(({ point, keep }) => (point === undefined || keep ? [] : [point])).reverse();
  const report: RetentionReport = {
    timeZone,
    now: new Date(terms.nowMs).toISOString(),
    kept: points.length - going.length,
    going: going.length,
    plan: planName(going),
    points: points.flatMap(({ point, keep, reasons }) =>
      point === undefined
        ? []
        : [
            {
              id: point.id,
              machine: point.machine.name,
              machineId: point.machine.id,
              createdAt: point.createdAt,
              keep,
              reasons,
            },
          ],
    ),
  };
  return { report, going };
}

function ruleOf(params: RetentionParams): RetentionRule {
  const rule = {
    last: params.keepLast,
    hourly: params.keepHourly,
    daily: params.keepDaily,
    weekly: params.keepWeekly,
    monthly: params.keepMonthly,
    yearly: params.keepYearly,
    within: params.keepWithin === undefined ? undefined : parseSpan(params.keepWithin),
  };
  return Object.fromEntries(Object.entries(rule).filter(([, part]) => part !== undefined)) as RetentionRule;
}

function chosenPoints(points: readonly RecoveryPoint[], { machine, all }: RetentionParams): RecoveryPoint[] {
  if ((machine === undefined) === (all !== true)) {
    throw new ApplianceError(
      'BAD_ARGUMENT',
      'retention looks at one machine, or at all of them: name it, or say --all',
    );
  }
  return machine === undefined ? [...points] : pointsOfMachine(points, machine);
}

/** What the decision needs to know of each point, by id. Reads every manifest. */
async function factsOf(
  core: Core,
  points: readonly RecoveryPoint[],
  { signal, onProgress }: OperationContext,
): Promise<Map<string, RetentionPoint>> {
  const { manifests } = core.repository;
  const damaged = await damagedPoints(core, points, signal);
  const users = new PointUsers(core);
  const known = new Map<string, RetentionPoint>();
  for (const [n, listed] of points.entries()) {
    throwIfAborted(signal);
    const point = await manifests.get({ machineId: listed.machine.id, pointId: listed.id });
    const kept = [...(await guardReasons(core, point)), ...(await users.of(point)).map((user) => `in use by ${user}`)];
    const facts = bareFacts(point);
    known.set(point.id, { ...facts, kept, defect: damaged.has(point.id) ? 'damaged' : facts.defect });
    onProgress({ phase: 'reading points', done: n + 1, total: points.length, unit: 'items' });
  }
  return known;
}

function bareFacts({ id, sequence, createdAt }: RecoveryPoint): RetentionPoint {
  const timeMs = Date.parse(createdAt);
  if (Number.isNaN(timeMs)) return { id, sequence, timeMs: 0, defect: 'its time cannot be read', kept: [] };
  return { id, sequence, timeMs, defect: null, kept: [] };
}

async function guardReasons({ repository }: Core, point: RecoveryPoint): Promise<string[]> {
  const { hold, lock } = await repository.guards.inForce({ machineId: point.machine.id, pointId: point.id });
  const reasons: string[] = [];
  if (lock !== undefined) reasons.push(`locked until ${day(lock.until)}`);
  if (hold !== undefined) {
    const until = hold.until === null ? '' : ` until ${day(hold.until)}`;
    reasons.push(`held${until}${hold.reason === '' ? '' : `: ${hold.reason}`}`);
  }
  return reasons;
}

/** Minutes are enough in a reason. */
function day(iso: string | null): string {
  return `${iso?.slice(0, 16)}Z`;
}

/** Points of which something is known to be damaged. Costs nothing where nothing is. */
async function damagedPoints(
  { repository, catalog }: Core,
  points: readonly RecoveryPoint[],
  signal: AbortSignal,
): Promise<Set<string>> {
  const touches = await traceDamage(repository, points, new Set(catalog.damages().keys()), signal);
  for (const ofContent of touches.values()) {
    if (ofContent.length < MAX_TOUCHES) continue;
    throw new ApplianceError('REPOSITORY_CORRUPT', 'so much is damaged that nobody can say which points are whole', {
      hint: '`understudy check` names what it found; a backup heals what it meets. Retention can wait for that.',
    });
  }
  return new Set([...touches.values()].flatMap((ofContent) => ofContent.map(({ pointId }) => pointId)));
}

/** Undefined when it was deleted; otherwise why it stays. @throws ApplianceError as `deletePoint` */
export async function deleteUnlessGuarded(core: Core, clock: Clock, point: RecoveryPoint): Promise<string | undefined> {
  const users = await usersOf(core, point);
  if (users.length > 0) return `in use by ${users.join(', ')}`;
  try {
    await endPoint(core, clock, point);
  } catch (error) {
    if (hasCode(error, 'POINT_HELD', 'POINT_LOCKED')) return error.message;
    throw error;
  }
  return undefined;
}

/** Machines by name, the points of each newest first. */
export function byMachine(points: readonly RecoveryPoint[]): RecoveryPoint[][] {
  return [...Map.groupBy(points, ({ machine }) => machine.id).values()]
    .sort(([a], [b]) => ((a?.machine.name ?? '') < (b?.machine.name ?? '') ? -1 : 1))
    .map((ofMachine) => ofMachine.sort(byAge));
}

function planName(going: readonly RecoveryPoint[]): string {
  const ids = going.map(({ id }) => id).sort();
  return createHash('sha256').update(ids.join('\n')).digest('hex').slice(0, 32);
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new ApplianceError('ABORTED', 'retention was interrupted');
}
