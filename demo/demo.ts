// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { formatBytes, formatDuration, formatRate } from '../appliance/cli/format.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { ERROR_TABLE, EXIT_CODES } from '../appliance/core/error-codes.ts';
import { ApplianceError, toError } from '../appliance/core/errors.ts';
import { bootAct, contentsAct, curtainAct, insideAct, restoreAct } from './acts-after.ts';
import { damageAct, firstBackupAct, machineAct, repositoryAct, secondBackupAct, workAct } from './acts-before.ts';
import { deletionAct, protectAct, stillThereAct, unprotectAct } from './acts-continuous.ts';
import type { Figures } from './figures.ts';
import { type DemoOptions, parseOptions, USAGE } from './options.ts';
import { Play } from './play.ts';
import { Show } from './show.ts';
import { Stage } from './stage.ts';

/*
 * `npm run demo`: a real guest is backed up, changed, backed up again, damaged, and booted from before the damage, by the
 * commands that an operator uses. `npm run demo:continuous` keeps each write of it instead, and boots one second of it. What is claimed is verified; what does not hold makes the exit code 1. Whatever happens,
 * SIGINT, SIGTERM and SIGHUP included, everything that was made is taken away.
 */

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

const isJson: boolean = process.argv.includes('--json');
const show: Show = new Show(isJson ? process.stderr : process.stdout, process.env);
const abort: AbortController = new AbortController();
let interruptedBy: keyof typeof SIGNALS | undefined;

for (const name of Object.keys(SIGNALS) as (keyof typeof SIGNALS)[]) {
  process.on(name, () => {
    if (interruptedBy !== undefined) return;
    interruptedBy = name;
    show.remark(`\n${name}: cleaning up …`);
    abort.abort(new ApplianceError('ABORTED', `interrupted by ${name}`));
  });
}
for (const stream of [process.stdout, process.stderr]) {
  // Whoever looked has gone: nobody is left to show anything to.
  stream.on('error', (cause) => abort.abort(new ApplianceError('ABORTED', 'the output cannot be written', { cause })));
}

/** Told to the user already, before the clean-up. */
class ReportedError extends Error {
  override readonly cause: Error;

  constructor(cause: Error) {
    super(cause.message);
    this.cause = cause;
  }
}

async function main(): Promise<number> {
  const startedMs = systemClock.elapsedMs();
  try {
    const options = parseOptions(process.argv.slice(2));
    if (options.help) {
      process.stdout.write(USAGE);
      return EXIT_CODES.ok;
    }
    const figures = await perform(options);
    figures.totalMs = systemClock.elapsedMs() - startedMs;
    if (options.isContinuous) summarizeContinuous(figures);
    else summarize(figures);
    return await finish(figures);
  } catch (thrown) {
    const error = thrown instanceof ReportedError ? thrown.cause : toError(thrown);
    if (error === thrown) report(error);
    if (interruptedBy !== undefined) return SIGNALS[interruptedBy];
    return error instanceof ApplianceError ? EXIT_CODES[ERROR_TABLE[error.code].exit] : EXIT_CODES.failed;
  }
}

async function perform(options: DemoOptions): Promise<Figures> {
  const processor = cpus()[0]?.model ?? 'unknown processor';
  show.title('Understudy: every state kept, any state booted at once', [
    `${system()}, ${cpus().length} × ${processor}`,
    'Times at the right edge are measured around whole commands, from their start to their end.',
  ]);
  show.busy('starting libvirt');
  const stage = await Stage.open({ connect: options.connect, diskMiB: options.diskMiB, signal: abort.signal });
  const play = new Play(show, stage, options);
  let failure: Error | undefined;
  try {
    show.remark(
      `Under ${stage.isLibvirtPrivate ? 'a libvirt daemon of its own' : stage.uri}. The commands below work with`,
    );
    show.lines(environment(stage).map((line) => `    ${line}`));
    await performActs(play);
  } catch (error) {
    failure = toError(error);
    report(failure);
  }
  if (failure === undefined && options.keep) await sayWhatStays(stage);
  else await strike(stage);
  if (failure !== undefined) throw new ReportedError(failure);
  return play.figures;
}

async function performActs(play: Play): Promise<void> {
  if (play.options.isContinuous) await performContinuousActs(play);
  else await performBackupActs(play);
}

async function performContinuousActs(play: Play): Promise<void> {
  await using original = await machineAct(play);
  await repositoryAct(play);
  await protectAct(play);
  const hashes = await workAct(play, original);
  const moment = await deletionAct(play, original);
  await using booted = await bootAct(play, original, moment);
  await stillThereAct(play, booted, hashes);
  if (play.options.keep) return;
  await unprotectAct(play);
  await curtainAct(play);
}

async function performBackupActs(play: Play): Promise<void> {
  await using original = await machineAct(play);
  await repositoryAct(play);
  await firstBackupAct(play);
  const hashes = await workAct(play, original);
  const reference = await secondBackupAct(play, original);
  await damageAct(play, original);
  await using booted = await bootAct(play, original);
  await insideAct(play, booted, hashes);
  await restoreAct(play, reference);
  await contentsAct(play);
  if (!play.options.keep) await curtainAct(play);
}

/** Takes everything away, and looks whether it is gone. */
async function strike(stage: Stage): Promise<void> {
  const startedMs = systemClock.elapsedMs();
  show.busy('cleaning up');
  await stage[Symbol.asyncDispose]();
  const left = await stage.leftovers();
  const text = 'nothing of this is left: no machine, no process, no file';
  show.claim(
    left.length === 0 ? text : `${text} (${left.join(', ')})`,
    left.length === 0,
    systemClock.elapsedMs() - startedMs,
  );
}

async function sayWhatStays(stage: Stage): Promise<void> {
  show.act('Kept', 'Both machines and the repository are still there. To look around:');
  const remove = stage.isLibvirtPrivate
    ? [`kill ${(await stage.processIds()).join(' ')}`]
    : [
        `./understudy stop ${stage.bootedName} --discard; kill ${(await stage.processIds()).join(' ')}`,
        `virsh -c "$LIBVIRT" destroy ${stage.machineName}`,
        `virsh -c "$LIBVIRT" undefine --checkpoints-metadata ${stage.machineName}`,
      ];
  const look = ['./understudy points', './understudy booted', 'virsh -c "$LIBVIRT" list'];
  show.lines([...environment(stage), ...look].map((line) => `    ${line}`));
  show.remark('To take everything away:');
  show.lines([...remove, `sleep 3; rm -rf ${stage.directories().join(' ')}`].map((line) => `    ${line}`));
}

function environment(stage: Stage): string[] {
  return [`export DEMO=${stage.directory}`, `export UNDERSTUDY_STATE=$DEMO/state`, `export LIBVIRT='${stage.uri}'`];
}

function summarize(figures: Figures): void {
  const { firstBackup: first, secondBackup: second } = figures;
  const time = (ms: number | undefined): string => (ms === undefined ? '–' : formatDuration(ms));
  const size = (bytes: number | undefined): string => (bytes === undefined ? '–' : formatBytes(bytes));
  const rate =
    first === undefined
      ? ''
      : `${size(first.readBytes)} read, ${formatRate((first.readBytes * 1000) / first.backupMs)}`;
  show.table('Measured', [
    ['first backup', time(first?.backupMs), `${rate}; ${size(first?.storedBytes)} stored`],
    ['second backup', time(second?.backupMs), `${size(second?.readBytes)} read; ${size(second?.storedBytes)} stored`],
    [
      'back on stage',
      time(figures.bootMs),
      `from the call until the guest answers (${time(figures.originalBootMs)} from its own disk)`,
    ],
    ['restore', time(figures.restoreMs), `of a disk of ${size(figures.diskBytes)} to a qcow2 file`],
    ['verify', time(figures.checkMs), `${size(figures.storedBytes)}, which stand for ${size(figures.logicalBytes)}`],
  ]);
}

function summarizeContinuous(figures: Figures): void {
  const time = (ms: number | undefined): string => (ms === undefined ? '–' : formatDuration(ms));
  const size = (bytes: number | undefined): string => (bytes === undefined ? '–' : formatBytes(bytes));
  show.table('Measured', [
    [
      'protected',
      time(figures.protectMs),
      `from the call until every write is kept; ${size(figures.fileBytes)} of files`,
    ],
    [
      'journal',
      size(figures.journalBytes),
      `for ${size(figures.guestWroteBytes)} that the guest wrote, and its deletion`,
    ],
    ['deleted', figures.deletedAt ?? '–', `and booted as it was at ${figures.bootedAt ?? '–'}`],
    [
      'back on stage',
      time(figures.bootMs),
      `from the call until the guest answers (${time(figures.originalBootMs)} from its own disk)`,
    ],
  ]);
}

async function finish(figures: Figures): Promise<number> {
  const failed = show.claims.filter(({ holds }) => !holds);
  const total = show.claims.length;
  const took = formatDuration(figures.totalMs ?? 0);
  if (failed.length === 0) show.verdict(`All ${total} claims were verified, in ${took}.`, true);
  else show.verdict(`${failed.length} of ${total} claims do not hold.`, false);
  if (isJson) {
    const document = JSON.stringify({ ...figures, claims: show.claims }, null, 2);
    await new Promise<void>((resolve) => process.stdout.write(`${document}\n`, () => resolve()));
  }
  return failed.length === 0 ? EXIT_CODES.ok : EXIT_CODES.failed;
}

function report(error: Error): void {
  if (interruptedBy !== undefined && error instanceof ApplianceError && error.code === 'ABORTED') return;
  const hint = error instanceof ApplianceError && error.hint !== '' ? `\nhint: ${error.hint}` : '';
  const parts =
    error instanceof AggregateError ? error.errors.map((part) => `\n  ${toError(part).message}`).join('') : '';
  show.problem(`\nThe demo failed: ${error.message}${parts}${hint}`);
}

function system(): string {
  const release = readFileSync('/etc/os-release', 'utf8');
  return /^PRETTY_NAME="?([^"\n]*)/m.exec(release)?.[1] ?? 'Linux';
}

process.exit(await main());
