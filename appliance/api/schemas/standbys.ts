// SPDX-License-Identifier: Apache-2.0
import type { FailbackReport } from '../../recover/standby/failback.ts';
import type { FailoverReport } from '../../recover/standby/failover.ts';
import type { StandbySummary, StandbyTestReport } from '../../recover/standby/standby-service.ts';
import { type Immutable, type MustBeTrue, type Same, type Static, Type } from './type.ts';
import {
  amount,
  count,
  flag,
  list,
  maybe,
  number,
  oneOf,
  orNull,
  params,
  part,
  report,
  text,
  time,
  word,
} from './vocabulary.ts';

/** What can be asked about spares that take over from machines; the types of the answers are `recover`'s own. */

const name = word("The machine, by name or UUID, or the spare's name.", 'web');
const answeredBy = oneOf(['agent', 'disk-writes']);

export const standbyParams = params({ name });

export const standbyCreateParams = params({
  name: word('The machine, by name or UUID. It has a recovery point.'),
  on: word('The libvirt URI on which the spare is defined.'),
  network: maybe(word('Names of networks there and here, `OLD=NEW`, with commas between.')),
  memory: maybe(number({ from: 1, to: 2 ** 24 }, 'MiB.')),
  as: maybe(word('Name of the spare; default: `<name>-standby`.')),
  connect: maybe(word("The libvirt URI of the machine itself; the state's default when left out.")),
});

export const standbyTestParams = params({
  name,
  expect: maybe(word("A regular expression that the guest's serial console must show.")),
});

export const failoverParams = params({
  name,
  at: maybe(word('What stands after the `@` of an expression: a time, `latest`, …')),
  force: maybe(flag('Pull the plug of the original; go on although it cannot be reached.')),
});

export const failbackParams = params({
  name,
  force: maybe(flag('Pull the plug of machines that do not shut down, and of an original that runs again.')),
});

export const standbySummary = report('StandbySummary', {
  name: text(),
  machine: text(),
  machineId: text(),
  original: text(),
  connect: text(),
  networks: Type.Record(text()),
  memoryMiB: orNull(count()),
  point: orNull(text(), 'The point whose definition the spare has.'),
  phase: oneOf(['ready', 'fencing', 'fenced', 'booting', 'running', 'returning', 'returned']),
  standing: text('Where it stands, in a sentence.'),
  since: orNull(time(), 'When the failover began; null without one.'),
  changes: list(text(), "What of the original's definition is different; only when it was just made."),
});

export const standbyListResult = Type.Array(standbySummary);

export const standbyTestResult = report('StandbyTestReport', {
  name: text(),
  machine: text(),
  point: text(),
  bootedMs: amount('From the call to the running domain.'),
  answeredMs: amount("To the guest's answer: the measured recovery time."),
  answeredBy,
  shownMs: orNull(amount(), 'To the expected words on the console; null when none were.'),
});

export const failoverResult = report('FailoverReport', {
  machine: text(),
  name: text(),
  connect: text(),
  planned: flag('The original was reached and switched off.'),
  point: text(),
  moment: orNull(part({ sequence: count(), time: time() })),
  bootedMs: amount('From the call, or of the one that went on with it, to the running spare.'),
  answeredMs: orNull(amount(), "To the guest's answer; null when it was not waited for to the end."),
  answeredBy: orNull(answeredBy),
  changes: list(text()),
});

export const failbackResult = report('FailbackReport', {
  machine: text(),
  name: text(),
  method: oneOf(
    ['changes', 'everything'],
    '`changes`: what the spare wrote, and nothing else; `everything`: both disks were compared.',
  ),
  reason: text('Why everything had to be compared; empty otherwise.'),
  rounds: count(),
  changedBytes: count('What the spare had changed, each place once.'),
  copiedBytes: count("What was sent to the original's disks over all rounds, zeroes apart."),
  zeroedBytes: count(),
  verifiedBytes: count(),
  downMs: amount("From the spare's end to the original's start."),
  durationMs: amount(),
  pointBefore: text('A point of the original as it was before its disks were written.'),
});

export type { FailbackReport, FailoverReport, StandbySummary, StandbyTestReport };
export type StandbyParams = Immutable<Static<typeof standbyParams>>;
export type StandbyCreateParams = Immutable<Static<typeof standbyCreateParams>>;
export type StandbyTestParams = Immutable<Static<typeof standbyTestParams>>;
export type FailoverParams = Immutable<Static<typeof failoverParams>>;
export type FailbackParams = Immutable<Static<typeof failbackParams>>;

export type StandbyProofs = [
  MustBeTrue<Same<Static<typeof standbySummary>, StandbySummary>>,
  MustBeTrue<Same<Static<typeof standbyTestResult>, StandbyTestReport>>,
  MustBeTrue<Same<Static<typeof failoverResult>, FailoverReport>>,
  MustBeTrue<Same<Static<typeof failbackResult>, FailbackReport>>,
];
