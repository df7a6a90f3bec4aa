// SPDX-License-Identifier: Apache-2.0
import { connectMembers } from './machines.ts';
import { type Immutable, type Static, Type } from './type.ts';
import { amount, count, list, maybe, oneOf, orNull, params, part, report, text, time, word } from './vocabulary.ts';

/** Continuous protection. */

const name = word("The machine's name or UUID.", 'web');

export const protectParams = params({
  target: word("A machine's name or UUID.", 'web'),
  interval: maybe(word('A state each so often (`5s`, `1m`, at least `1s`); every write when left out.')),
  durability: maybe(
    oneOf(
      ['group', 'write'],
      '`write`: each write of the guest waits until it is on stable storage. Default: `group`, within a second.',
    ),
  ),
  window: maybe(word('How long moments are kept (`24h`, `7d`). Left out: as before; at first 24 h.')),
  windowSize: maybe(word('How large the journal may get (`50GiB`). Left out: as before.')),
  ...connectMembers,
});

export const unprotectParams = params({ name });

export const protectionPauseParams = params({
  name,
  for: maybe(word('Taken up again after so long (`30m`, `2h`); left out: when asked for.')),
});

export const protectionResumeParams = params({ name });

const resyncReport = report('ResyncReport', {
  kind: oneOf(
    ['bitmap', 'comparison'],
    "`bitmap`: caught up from the hypervisor's dirty bitmap, then copied and compared; `comparison`: only that.",
  ),
  at: time(),
  reason: orNull(text(), 'Why the bitmap was not used; null where it was.'),
  changedBytes: count('Bytes that were read to catch up.'),
  comparedBytes: orNull(count(), 'Bytes that the copy sent; null until it is complete.'),
  differingBytes: orNull(count(), 'What of them differed; null until the copy is complete.'),
});

export const protectionReport = report(
  'ProtectionReport',
  {
    machine: text(),
    machineId: text(),
    connect: text(),
    protectedSince: time(),
    mode: oneOf(
      ['writes', 'interval', 'stage'],
      '`stage`: it runs from the appliance, which therefore keeps every write of it.',
    ),
    intervalMs: orNull(amount(), 'Null: every write.'),
    windowMs: amount('How long moments are kept.'),
    windowBytes: orNull(count(), 'How large the journal may get meanwhile; null: no limit.'),
    durability: oneOf(['group', 'write', 'guest'], '`guest`: what the guest flushes is flushed, when it does.'),
    state: oneOf(
      ['seeding', 'protected', 'behind', 'resyncing', 'paused', 'stopped'],
      '`stopped` while no service runs.',
    ),
    reason: text(),
    stateSince: orNull(time()),
    rpoMs: orNull(
      amount(),
      'How much would be lost if the machine were lost now, as time; null when nothing can be recovered yet.',
    ),
    journalBytes: count(),
    bytesPerSecond: amount('Bytes that the guest wrote, over the last minute.'),
    window: orNull(
      part({ from: time(), to: time() }),
      'The span in which moments can be recovered; null when there is none.',
    ),
    gaps: list(part({ from: time(), to: orNull(time()), reason: text() }), 'Spans within it in which none can.'),
    lastFold: orNull(time(), 'When the journal was last folded into a recovery point.'),
    foldProblem: orNull(text(), 'Why the last attempt to fold it failed.'),
    problems: list(text(), 'What is wrong besides, in sentences without a full stop.'),
    resync: orNull(
      resyncReport,
      'How the machine was taken up after the last interruption of `writes`; null when there was none.',
    ),
    history: list(
      part({ at: time(), state: text(), mode: text(), reason: text() }),
      'The states that it went through, oldest first.',
    ),
  },
  'A machine under continuous protection.',
);

export const protectionResult = Type.Array(protectionReport);

export const unprotectResult = report('UnprotectReport', {
  machine: text(),
  point: orNull(text(), 'The recovery point that holds the last state; null when there was none to save.'),
  outcome: text(),
});

export type ProtectParams = Immutable<Static<typeof protectParams>>;
export type UnprotectParams = Immutable<Static<typeof unprotectParams>>;
export type PauseParams = Immutable<Static<typeof protectionPauseParams>>;
export type ResumeParams = Immutable<Static<typeof protectionResumeParams>>;
export type ProtectionReport = Immutable<Static<typeof protectionReport>>;
export type ResyncReport = Immutable<Static<typeof resyncReport>>;
export type UnprotectReport = Immutable<Static<typeof unprotectResult>>;
