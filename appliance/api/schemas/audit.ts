// SPDX-License-Identifier: Apache-2.0
import { type Immutable, type Static, Type } from './type.ts';
import { count, maybe, number, oneOf, orNull, params, part, report, text, time, word } from './vocabulary.ts';

/** Who did what. */

/** How many acts are listed when nothing else is said, and at most. */
export const DEFAULT_AUDIT_ACTS = 200;
export const MAX_AUDIT_ACTS = 10_000;

const outcome = oneOf(['ok', 'failed', 'denied', 'unfinished']);

export const auditParams = params({
  since: maybe(word('A time (`2026-11-22`, `2h ago`).')),
  until: maybe(word('A time.')),
  who: maybe(word('Id or name of who did it.')),
  action: maybe(word('An operation, or a word like `login`.')),
  target: maybe(word('What it was done to, as it was named.')),
  outcome: maybe(outcome),
  newest: maybe(number({ from: 1, to: MAX_AUDIT_ACTS }, `The newest so many; default ${DEFAULT_AUDIT_ACTS}.`)),
});

const auditAct = report('AuditAct', {
  sequence: count('The number of its entry; entries have no gaps.'),
  at: time(),
  action: text(),
  who: part({ kind: text(), id: text(), name: text(), role: text() }),
  from: orNull(text(), 'The address; null for the host of the appliance.'),
  requestId: orNull(text()),
  target: orNull(text()),
  params: Type.Record(Type.Unknown(), { description: 'Without secrets.' }),
  outcome,
  code: orNull(text(), "The error's code."),
  approval: orNull(text(), 'Who approved it.'),
  endedAt: orNull(time(), 'Null while it goes on, or when the process ended before it.'),
});

export const auditResult = Type.Array(auditAct);

export const auditVerifyResult = report('AuditVerdict', {
  entries: count(),
  segments: count(),
  first: count('The first entry that is there; above 1 when archived segments were moved away.'),
  last: count(),
  head: text('The hash of the last entry.'),
  anchors: count('Anchors of the repository that were compared.'),
  bad: orNull(
    part({ segment: orNull(count()), sequence: count(), reason: text() }),
    'The first entry that is not as it was written.',
  ),
});

export type AuditParams = Immutable<Static<typeof auditParams>>;
export type AuditActReport = Immutable<Static<typeof auditAct>>;
export type AuditVerdictReport = Immutable<Static<typeof auditVerifyResult>>;
