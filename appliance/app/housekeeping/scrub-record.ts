// SPDX-License-Identifier: Apache-2.0
import type { PackId } from '../../core/ids.ts';
import type { Finding } from '../../repository/check-findings.ts';
import { packKey } from '../../repository/pack-writer.ts';

/** Defects that are remembered; more are counted. */
export const MAX_KEPT_FINDINGS = 100;
/** Places of one defect that are remembered. */
const MAX_KEPT_TOUCHES = 20;

/** A defect that a scrub or a check found and nobody has seen mended since. */
export interface KeptFinding {
  /** ISO 8601, UTC. */
  readonly foundAt: string;
  readonly object: string;
  readonly what: string;
  readonly touches: Finding['touches'];
}

/** How far the periodic scrub has come, and what it found. */
export interface ScrubRecord {
  /** Where the next slice begins; null at the beginning of a round. */
  readonly after: PackId | null;
  readonly roundStartedAt: string | null;
  readonly lastSliceAt: string | null;
  /** The end of the last round that has seen everything. */
  readonly lastRoundAt: string | null;
  /** Stored bytes that this round has read. */
  readonly readBytes: number;
  readonly findings: readonly KeptFinding[];
  readonly omittedFindings: number;
}

export const NO_SCRUB: ScrubRecord = {
  after: null,
  roundStartedAt: null,
  lastSliceAt: null,
  lastRoundAt: null,
  readBytes: 0,
  findings: [],
  omittedFindings: 0,
};

/** What of the repository was looked at, and what was found there. */
export interface Examined {
  /** Undefined: all packs. Otherwise these; everything beside the packs was looked at in any case. */
  readonly packs: readonly PackId[] | undefined;
  readonly findings: readonly Finding[];
  readonly omittedFindings: number;
  readonly at: string;
}

/** The record after a slice. */
export function afterSlice(
  record: ScrubRecord,
  slice: Examined & { readonly after: PackId | undefined; readonly readBytes: number },
): ScrubRecord {
  const isNewRound = record.after === null;
  const isRoundOver = slice.after === undefined;
  return {
    ...withFindings(record, slice),
    after: slice.after ?? null,
    roundStartedAt: isNewRound ? slice.at : record.roundStartedAt,
    lastSliceAt: slice.at,
    lastRoundAt: isRoundOver ? slice.at : record.lastRoundAt,
    readBytes: (isNewRound ? 0 : record.readBytes) + slice.readBytes,
  };
}

/** What was found earlier in what was looked at now is forgotten: it is found again, or mended. */
export function withFindings(record: ScrubRecord, { packs, findings, omittedFindings, at }: Examined): ScrubRecord {
  const seen = packs === undefined ? undefined : new Set<string>(packs.map(packKey));
  const isLeft = ({ object }: KeptFinding): boolean =>
    seen !== undefined && object.startsWith('packs/') && !seen.has(object);
  const fresh = findings
    .filter(({ isRepaired }) => !isRepaired)
    .map(({ object, what, touches }) => ({ foundAt: at, object, what, touches: touches.slice(0, MAX_KEPT_TOUCHES) }));
  const all = merged([...record.findings.filter(isLeft), ...fresh]);
  const before = seen === undefined ? 0 : record.omittedFindings;
  return {
    ...record,
    findings: all.slice(0, MAX_KEPT_FINDINGS),
    omittedFindings: before + omittedFindings + Math.max(0, all.length - MAX_KEPT_FINDINGS),
  };
}

/** What is said of one object in the same words is one defect, with all its places. */
function merged(findings: readonly KeptFinding[]): KeptFinding[] {
  const byText = Map.groupBy(findings, ({ object, what }) => `${object} ${what}`);
  return [...byText.values()].flatMap(([first, ...rest]) => {
    if (first === undefined || rest.length === 0) return first ?? [];
    const places = [first, ...rest].flatMap(({ touches }) => touches);
    const distinct = new Map(places.map((place) => [JSON.stringify(place), place]));
    return { ...first, touches: [...distinct.values()].slice(0, MAX_KEPT_TOUCHES) };
  });
}
