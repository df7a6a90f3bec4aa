// SPDX-License-Identifier: Apache-2.0
import { hasCode } from '../core/errors.ts';
import type { AuditLog } from './audit-log.ts';
import type { AuditEntry, AuditWho } from './entry.ts';
import { decodeSegment, type SegmentContent } from './segment.ts';

export interface AuditFilter {
  /** Milliseconds since the Unix epoch. */
  readonly sinceMs?: number | undefined;
  readonly untilMs?: number | undefined;
  /** Id or name of who did it. */
  readonly who?: string | undefined;
  readonly action?: string | undefined;
  readonly target?: string | undefined;
  readonly outcome?: AuditAct['outcome'] | undefined;
  /** The newest so many. */
  readonly limit: number;
}

/** A start with its end, or an event. */
export interface AuditAct {
  /** Of its first entry. */
  readonly sequence: number;
  readonly at: string;
  readonly action: string;
  readonly who: AuditWho;
  readonly from: string | null;
  readonly requestId: string | null;
  readonly target: string | null;
  readonly params: Readonly<Record<string, unknown>>;
  /** `unfinished`: started, and no end was recorded: it goes on, or the process ended before it. */
  readonly outcome: 'ok' | 'failed' | 'denied' | 'unfinished';
  readonly code: string | null;
  readonly approval: string | null;
  readonly endedAt: string | null;
}

/** What was recorded, newest first; a damaged segment is listed up to its damage: `verifyAudit` names it. @throws ApplianceError IO_FAILED */
export async function listAudit(log: AuditLog, filter: AuditFilter): Promise<readonly AuditAct[]> {
  const acts: AuditAct[] = [];
  const ends = new Map<number, AuditEntry>();
  const numbers = await log.files.numbers();
  for (const number of [...numbers].reverse()) {
    const content = await readSegment(log, number);
    if (content === undefined) continue;
    for (const { entry } of [...content.entries].reverse()) {
      if (entry.phase === 'ended' && entry.start !== undefined) ends.set(entry.start, entry);
      else {
        const act = actOf(entry, ends.get(entry.sequence));
        ends.delete(entry.sequence);
        if (isWanted(act, filter)) acts.push(act);
      }
      if (acts.length >= filter.limit) return acts;
    }
    // Clocks go back now and then, but not by a day: what is in older segments is older than that.
    const first = content.entries[0]?.entry;
    if (filter.sinceMs !== undefined && Date.parse(first?.at ?? '') < filter.sinceMs - MS_OF_DAY) return acts;
  }
  return acts;
}

const MS_OF_DAY = 86_400_000;

async function readSegment(log: AuditLog, number: number): Promise<SegmentContent | undefined> {
  try {
    return decodeSegment(await log.files.read(number), `segment ${number}`);
  } catch (error) {
    if (hasCode(error, 'AUDIT_DAMAGED')) return undefined;
    throw error;
  }
}

function actOf(entry: AuditEntry, end: AuditEntry | undefined): AuditAct {
  const { sequence, at, action, who, from, requestId, target, params } = entry;
  const last = entry.phase === 'event' ? entry : end;
  return {
    sequence,
    at,
    action,
    who,
    from,
    requestId,
    target,
    params,
    outcome: last?.outcome ?? 'unfinished',
    code: last?.code ?? null,
    approval: last?.approval ?? entry.approval,
    endedAt: last?.at ?? null,
  };
}

function isWanted(act: AuditAct, filter: AuditFilter): boolean {
  const { who, action, target, outcome, sinceMs, untilMs } = filter;
  const atMs = Date.parse(act.at);
  return (
    (sinceMs === undefined || atMs >= sinceMs) &&
    (untilMs === undefined || atMs <= untilMs) &&
    (who === undefined || act.who.id === who || act.who.name === who) &&
    (action === undefined || act.action === action) &&
    (target === undefined || act.target === target) &&
    (outcome === undefined || act.outcome === outcome)
  );
}
