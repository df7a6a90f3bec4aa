// SPDX-License-Identifier: Apache-2.0
import { hasCode } from '../core/errors.ts';
import { type AuditAnchor, isAnchorGenuine } from './anchor.ts';
import type { AuditLog } from './audit-log.ts';
import { GENESIS_HASH } from './entry.ts';
import { decodeSegment, type SegmentContent } from './segment.ts';

/** What was found of a log. */
export interface AuditVerdict {
  readonly entries: number;
  readonly segments: number;
  /** The first entry that is there; above 1 when archived segments were moved away. 0 for an empty log. */
  readonly first: number;
  readonly last: number;
  readonly head: string;
  /** Anchors whose place in the log was compared. */
  readonly anchors: number;
  /** The first thing that is wrong, in a sentence; null for nothing. */
  readonly bad: { readonly segment: number | null; readonly sequence: number; readonly reason: string } | null;
}

type Bad = NonNullable<AuditVerdict['bad']>;

interface Progress {
  entries: number;
  segments: number;
  first: number;
  sequence: number;
  hash: string;
}

/**
 * Reads the whole log and checks every entry, every link, and that the log still holds what each anchor says. Stops at the first
 * thing that is wrong. @throws ApplianceError IO_FAILED
 */
export async function verifyAudit(log: AuditLog, anchors: readonly AuditAnchor[]): Promise<AuditVerdict> {
  const progress: Progress = { entries: 0, segments: 0, first: 0, sequence: 0, hash: GENESIS_HASH };
  const end = log.head.sequence;
  const hashes = new Map<number, string>();
  const wanted = new Set(anchors.map(({ sequence }) => sequence));
  const keep = (sequence: number, hash: string): unknown => wanted.has(sequence) && hashes.set(sequence, hash);
  let expected: number | undefined;
  for (const number of await log.files.numbers()) {
    const bad =
      expected === undefined || expected === number
        ? await verifySegment(log, number, { progress, keep })
        : { segment: expected, sequence: progress.sequence + 1, reason: 'the segment is missing' };
    // What is being written at this moment is not part of it yet.
    if (bad !== undefined && bad.sequence <= end) return verdict(progress, 0, bad);
    expected = number + 1;
    if (progress.sequence >= end) break;
  }
  let compared = 0;
  for (const anchor of [...anchors].sort((a, b) => a.sequence - b.sequence)) {
    const bad = compareAnchor(anchor, { log, hashes, progress });
    if (bad !== undefined) return verdict(progress, compared, bad);
    if (hashes.has(anchor.sequence)) compared += 1;
  }
  return verdict(progress, compared, null);
}

async function verifySegment(
  log: AuditLog,
  number: number,
  state: { readonly progress: Progress; readonly keep: (sequence: number, hash: string) => unknown },
): Promise<Bad | undefined> {
  const { progress, keep } = state;
  const fault = (reason: string, sequence: number = progress.sequence + 1): Bad => ({
    segment: number,
    sequence,
    reason,
  });
  let content: SegmentContent | undefined;
  try {
    content = decodeSegment(await log.files.read(number), `segment ${number}`);
  } catch (error) {
    if (hasCode(error, 'AUDIT_DAMAGED', 'CONFIG_FORMAT')) return fault(error.message);
    throw error;
  }
  if (content === undefined) return fault('the segment is empty');
  const { header, entries, bad, hash } = content;
  if (header.segment !== number) return fault(`the segment calls itself ${header.segment}`);
  if (progress.segments === 0) {
    if (number === 1 && header.previous !== GENESIS_HASH) return fault('the first segment goes on from something');
    Object.assign(progress, { first: header.sequence, sequence: header.sequence - 1, hash: header.previous });
  } else if (header.previous !== progress.hash || header.sequence !== progress.sequence + 1) {
    return fault('the segment does not go on from the one before it');
  }
  for (const { entry, hash: own } of entries) keep(entry.sequence, own);
  progress.segments += 1;
  progress.entries += entries.length;
  progress.sequence += entries.length;
  progress.hash = hash;
  return bad === undefined ? undefined : fault(bad.reason, bad.sequence);
}

function compareAnchor(
  anchor: AuditAnchor,
  found: { readonly log: AuditLog; readonly hashes: ReadonlyMap<number, string>; readonly progress: Progress },
): Bad | undefined {
  const { log, hashes, progress } = found;
  const { sequence, at } = anchor;
  if (!isAnchorGenuine(anchor, log.key))
    return { segment: null, sequence, reason: `the anchor of ${at} is not this appliance's` };
  if (sequence > progress.sequence) {
    return {
      segment: null,
      sequence: progress.sequence + 1,
      reason: `the log had ${sequence} entries on ${at}: its end is missing`,
    };
  }
  const hash = hashes.get(sequence);
  if (hash === undefined || hash === anchor.hash) return undefined;
  return { segment: null, sequence, reason: `the log was written anew: on ${at} this entry was another one` };
}

function verdict(
  { entries, segments, first, sequence, hash }: Progress,
  anchors: number,
  bad: Bad | null,
): AuditVerdict {
  return { entries, segments, first: entries === 0 ? 0 : first, last: sequence, head: hash, anchors, bad };
}
