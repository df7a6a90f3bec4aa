// SPDX-License-Identifier: Apache-2.0
import type { PauseParams, ProtectionReport, ProtectParams, ResyncReport, UnprotectReport } from '../api/operations.ts';
import { type AmountLimits, parseBytes, parseDuration } from '../core/amounts.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';
import type { ContinuousService, ProtectionStatus } from '../protect/continuous/continuous-service.ts';
import type { Resync } from '../protect/continuous/session.ts';
import type { BootedProtection } from '../recover/booted-histories.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Journal } from '../volume/journal.ts';
import { DEFAULT_WINDOW_MS } from '../volume/journal.ts';
import type { Core } from './core.ts';

const RATE_SPAN_US = 60_000_000;
const DAY_MS = 86_400_000;
const INTERVALS: AmountLimits = {
  least: 1_000,
  most: DAY_MS,
  what: 'interval',
  hint: 'An interval is at least 1s and at most 24h, for example 5s, 1m or 1h.',
};
const WINDOWS: AmountLimits = {
  least: 60_000,
  most: 366 * DAY_MS,
  what: 'window',
  hint: 'A window is at least 1m and at most 366d, for example 6h, 24h or 7d.',
};
const PAUSES: AmountLimits = {
  least: 1_000,
  most: 7 * DAY_MS,
  what: 'length of a pause',
  hint: 'It is at least 1s and at most 7d, for example 30m or 2h.',
};
const WINDOW_SIZES: AmountLimits = {
  least: 256 * 1024 ** 2,
  most: 1024 ** 5,
  what: 'size of a window',
  hint: 'It is at least 256MiB, for example 10GiB or 1TiB.',
};

/** Errors as `ContinuousService.protect`; BAD_ARGUMENT. */
export async function protectMachine(
  core: Core,
  clock: Clock,
  params: ProtectParams & { readonly connect: string; readonly policy?: string },
): Promise<ProtectionReport> {
  const session = core.recover.histories.find(params.target);
  if (session?.connect === params.connect) {
    throw new ApplianceError(
      'NOT_SUPPORTED',
      `${session.name} runs from the appliance, which keeps every write of it already`,
      {
        hint: `\`understudy timeline ${session.name}\` shows its moments. After \`understudy migrate\` it can be protected like others.`,
      },
    );
  }
  const status = await core.continuous.protect({
    target: params.target,
    connectUri: params.connect,
    intervalMs: params.interval === undefined ? 0 : parseDuration(params.interval, INTERVALS),
    durability: params.durability ?? 'group',
    policy: params.policy,
    ...(params.window === undefined ? {} : { windowMs: parseDuration(params.window, WINDOWS) }),
    ...(params.windowSize === undefined ? {} : { windowBytes: parseBytes(params.windowSize, WINDOW_SIZES) }),
  });
  return protectionReport(status, clock);
}

export async function unprotectMachine(core: Core, name: string): Promise<UnprotectReport> {
  const { record, point, isCurrent, problem } = await core.continuous.unprotect(name);
  const last =
    point === undefined
      ? `its last state could not be made a recovery point: ${problem ?? 'there is none'}`
      : `${isCurrent ? 'its last state' : `the newest state that was kept, of ${point.createdAt},`} is the recovery point ${point.id}`;
  return {
    machine: record.name,
    point: point?.id ?? null,
    outcome: `${record.name} is not protected any more; ${last}. The journal stays readable for a day.`,
  };
}

/** @throws ApplianceError MACHINE_NOT_FOUND, BAD_ARGUMENT */
export async function pauseMachine({ continuous }: Core, clock: Clock, params: PauseParams): Promise<ProtectionReport> {
  const forMs = params.for === undefined ? undefined : parseDuration(params.for, PAUSES);
  const until = forMs === undefined ? '' : ` until ${isoOfMs(clock.nowMs() + forMs)}`;
  const { machineId } = await continuous.pause(params.name, `paused by the operator${until}`, forMs);
  return protectionReportOf(continuous, clock, machineId);
}

/** The newest state of a machine whose every write is kept, as a recovery point; undefined for any other. Errors of folding. */
export async function foldNow(
  { recover, continuous }: Core,
  target: string,
  connect: string,
): Promise<RecoveryPoint | undefined> {
  return (await recover.histories.foldNow(target, connect)) ?? (await continuous.foldNow(target, connect));
}

/** Every protected machine, by name; those that run from the appliance, too. */
export async function protectionReports(
  { continuous, recover }: Pick<Core, 'continuous' | 'recover'>,
  clock: Clock,
): Promise<ProtectionReport[]> {
  const reports: ProtectionReport[] = [];
  for (const status of await continuous.protection()) reports.push(await protectionReport(status, clock));
  for (const booted of await recover.histories.protection()) reports.push(await stageReport(booted, clock));
  return reports.sort((a, b) => (a.machine < b.machine ? -1 : 1));
}

/** @throws ApplianceError MACHINE_NOT_FOUND */
export async function protectionReportOf(
  continuous: ContinuousService,
  clock: Clock,
  name: string,
): Promise<ProtectionReport> {
  const found = (await continuous.protection()).find(
    ({ record }) => record.name === name || record.machineId === name.toLowerCase(),
  );
  if (found === undefined) throw new ApplianceError('MACHINE_NOT_FOUND', `${name} is not under continuous protection`);
  return protectionReport(found, clock);
}

async function protectionReport(status: ProtectionStatus, clock: Clock): Promise<ProtectionReport> {
  const { record, session, journal, problem } = status;
  const nowUs = Math.floor(clock.nowMs() * 1000);
  const change = session?.change;
  const kept = await journalFacts(journal, nowUs);
  return {
    machine: record.name,
    machineId: record.machineId,
    connect: record.connect,
    protectedSince: record.since,
    mode: change?.mode ?? (record.intervalMs === 0 ? 'writes' : 'interval'),
    intervalMs: record.intervalMs === 0 ? null : record.intervalMs,
    durability: record.durability,
    windowMs: record.windowMs ?? DEFAULT_WINDOW_MS,
    windowBytes: record.windowBytes ?? null,
    state: change?.state ?? 'stopped',
    reason: problem ?? change?.reason ?? 'no session runs',
    stateSince: change === undefined ? null : isoOfMs(change.atMs),
    rpoMs: session === undefined ? ageMs(kept.lastUs, nowUs) : roundOrNull(session.rpoMs),
    journalBytes: journal?.sizeBytes ?? 0,
    bytesPerSecond: kept.bytesPerSecond,
    window: kept.window,
    gaps: kept.gaps,
    lastFold: session === undefined || session.lastFoldMs === null ? null : isoOfMs(session.lastFoldMs),
    foldProblem: session?.foldProblem ?? null,
    problems: problemsOf(session?.foldProblem ?? null, journal, nowUs),
    resync: resyncReport(session?.resync ?? null),
    history: (session?.history ?? []).map(({ atMs, state, mode, reason }) => ({
      at: isoOfMs(atMs),
      state,
      mode,
      reason,
    })),
  };
}

function resyncReport(resync: Resync | null): ResyncReport | null {
  if (resync === null) return null;
  const { kind, reason, atMs, changedBytes, compared } = resync;
  return {
    kind,
    at: isoOfMs(atMs),
    reason: reason === '' ? null : reason,
    changedBytes,
    comparedBytes: compared?.bytes ?? null,
    differingBytes: compared?.differingBytes ?? null,
  };
}

async function stageReport(booted: BootedProtection, clock: Clock): Promise<ProtectionReport> {
  const { session, history, isProtected, isServed, state, problem } = booted;
  const nowUs = Math.floor(clock.nowMs() * 1000);
  const { lastUs: _, ...kept } = await journalFacts(history?.journal, nowUs);
  const reason = isServed ? `the machine is ${state}` : 'its disks are not served';
  return {
    machine: booted.listedName,
    machineId: booted.historyId,
    connect: session.connect,
    protectedSince: session.startedAt,
    mode: 'stage',
    intervalMs: null,
    durability: 'guest',
    windowMs: DEFAULT_WINDOW_MS,
    windowBytes: null,
    state: isProtected ? 'protected' : isServed || session.phase === 'kept' ? 'paused' : 'stopped',
    reason: problem ?? (isProtected ? 'it runs from the appliance' : reason),
    stateSince: null,
    // Its only disks are here: there is nothing that the appliance does not have.
    rpoMs: history === undefined ? null : 0,
    journalBytes: history?.journal.sizeBytes ?? 0,
    ...kept,
    resync: null,
    lastFold: history === undefined || history.lastFoldMs === null ? null : isoOfMs(history.lastFoldMs),
    foldProblem: history?.foldProblem ?? null,
    problems: problemsOf(history?.foldProblem ?? null, history?.journal, nowUs),
    history: [],
  };
}

/** More than a clock is corrected by in passing. */
const CLOCK_BEHIND_US = 60_000_000;

function problemsOf(foldProblem: string | null, journal: Journal | undefined, nowUs: number): string[] {
  const problems: string[] = [];
  if (foldProblem !== null) problems.push(`no recovery point could be folded: ${foldProblem}`);
  const keeping = journal?.keepingProblem;
  if (keeping !== undefined) problems.push(`the journal could not be sealed or shortened: ${keeping.message}`);
  const newestUs = journal?.newest.timeUs ?? 0;
  if (newestUs > nowUs + CLOCK_BEHIND_US) {
    problems.push(`the clock was set back: until ${isoOfUs(newestUs)} name moments by bookmark: or seq:, not by time`);
  }
  return problems;
}

type JournalFacts = Pick<ProtectionReport, 'bytesPerSecond' | 'window' | 'gaps'> & {
  readonly lastUs: number | undefined;
};

async function journalFacts(journal: ProtectionStatus['journal'], nowUs: number): Promise<JournalFacts> {
  if (journal === undefined) return { bytesPerSecond: 0, window: null, gaps: [], lastUs: undefined };
  const { stretches, gaps } = await journal.timeline({ buckets: 0 });
  const { buckets } = await journal.timeline({ fromUs: nowUs - RATE_SPAN_US, toUs: nowUs, buckets: 1 });
  const [first, last] = [stretches[0], stretches.at(-1)];
  const seconds = RATE_SPAN_US / 1_000_000;
  return {
    bytesPerSecond: Math.round(buckets.reduce((sum, { bytes }) => sum + bytes, 0) / seconds),
    window:
      first === undefined || last === undefined
        ? null
        : { from: isoOfUs(first.begin.timeUs), to: isoOfUs(last.end.timeUs) },
    gaps: gaps.map(({ begin, end, reason }) => ({
      from: isoOfUs(begin.timeUs),
      to: end === undefined ? null : isoOfUs(end.timeUs),
      reason,
    })),
    lastUs: last?.end.timeUs,
  };
}

function isoOfUs(timeUs: number): string {
  return isoOfMs(Math.floor(timeUs / 1000));
}

function isoOfMs(ms: number): string {
  return new Date(ms).toISOString();
}

function ageMs(timeUs: number | undefined, nowUs: number): number | null {
  return timeUs === undefined ? null : Math.max(0, Math.round((nowUs - timeUs) / 1000));
}

function roundOrNull(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms);
}
