// SPDX-License-Identifier: Apache-2.0
import type { Principal } from '../../access/principal.ts';
import type { Progress } from '../operations.ts';
import { wireError } from './problem.ts';
import { type Immutable, type MustBeTrue, type Same, type Static, Type } from './type.ts';
import { amount, list, maybe, number, oneOf, orNull, params, part, report, text, time, word } from './vocabulary.ts';

/** Runs: what takes its time. */

export const runsParams = params({ last: maybe(number({ from: 1, to: 1_000_000 }, 'Only so many, the newest.')) });

export const runParams = params({ id: word('Of a run, or its beginning.') });

const progress = report(
  'Progress',
  {
    phase: text('What is being done, in a few words (`backing up vda`).'),
    done: amount('In `unit`.'),
    total: amount('In `unit`; 0 is not known yet.'),
    unit: oneOf(['bytes', 'items']),
  },
  'How far a long operation is.',
);

const startedBy = part({
  kind: oneOf(['local', 'user', 'token', 'policy', 'appliance']),
  id: text('Of the user, the token or the policy.'),
  name: text('For people.'),
});

const runState = oneOf(
  ['queued', 'running', 'succeeded', 'failed', 'cancelled'],
  '`queued` until there is room for it; the last three are ends.',
);

const runMembers = {
  id: text(),
  operation: text("The operation's name."),
  machine: orNull(text(), 'The machine that it is about, as it was named; null for none.'),
  machineId: orNull(text()),
  startedBy,
  createdAt: time(),
  startedAt: orNull(time(), 'Null while it is queued.'),
  endedAt: orNull(time()),
  state: runState,
  progress: orNull(progress, 'How far it is, or was; null before it said so.'),
  error: orNull(wireError, 'Of a run that failed or was cancelled.'),
} as const;

export const runSummary = report('RunSummary', runMembers);

export const runsResult = Type.Array(runSummary);

export const runReport = report('RunReport', {
  ...runMembers,
  params: Type.Record(Type.Unknown(), { description: 'Of the operation, without secrets.' }),
  notices: list(text(), 'What the operator should know besides, oldest first; the first and the newest of very many.'),
  result: Type.Unknown({
    description: 'What the operation gave; null until it has succeeded, and when it was too large to be kept.',
  }),
});

export type RunState = Static<typeof runState>;
export type RunsParams = Immutable<Static<typeof runsParams>>;
export type RunParams = Immutable<Static<typeof runParams>>;
export type RunSummary = Immutable<Static<typeof runSummary>>;
export type RunReport = Immutable<Static<typeof runReport>>;

export type RunProofs = [
  MustBeTrue<Same<Static<typeof progress>, Progress>>,
  MustBeTrue<Same<Static<typeof startedBy>, Pick<Principal, 'kind' | 'id' | 'name'>>>,
];
