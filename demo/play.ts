// SPDX-License-Identifier: Apache-2.0
import type { PointDetails, PointSummary } from '../appliance/api/operations.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { type ChildEnd, runChild } from './child.ts';
import type { BackupFigures, Figures } from './figures.ts';
import type { DemoOptions } from './options.ts';
import type { Show } from './show.ts';
import type { Stage } from './stage.ts';

/** How commands that need a connection are shown; the variable is shown once. */
const SHOWN_URI = '"$LIBVIRT"';

/** Commands that draw their own progress on the terminal for long enough to be seen. */
const WITH_PROGRESS_BAR: readonly string[] = ['backup', 'restore', 'check'];

/** What all acts work with: the show, the stage, the commands of the appliance, the figures. */
export class Play {
  readonly show: Show;
  readonly stage: Stage;
  readonly options: DemoOptions;
  readonly figures: Figures = {};

  constructor(show: Show, stage: Stage, options: DemoOptions) {
    this.show = show;
    this.stage = stage;
    this.options = options;
  }

  /** Runs a command of the appliance as a user does, and shows command and output. @throws ApplianceError TOOL_FAILED */
  async understudy(args: readonly string[]): Promise<ChildEnd> {
    const { show, stage } = this;
    show.command(`./understudy ${args.map((argument) => this.#shown(argument)).join(' ')}`);
    const hasBar = show.isTerminal && WITH_PROGRESS_BAR.includes(args[0] ?? '');
    if (!hasBar) show.busy('');
    const end = await stage.understudy(args, hasBar);
    if (end.exitCode !== 0) throw failure(args, end);
    show.output(this.#shortened(`${end.stderr}${end.stdout}`));
    return end;
  }

  /** The JSON report of a command that only looks; not shown. */
  async ask<Report>(...args: readonly string[]): Promise<Report> {
    const end = await this.stage.understudy([...args, '--json']);
    if (end.exitCode !== 0) throw failure(args, end);
    return JSON.parse(end.stdout) as Report;
  }

  /** Backs the machine up, and reads what the appliance says about the new point. */
  async backup(): Promise<BackupFigures> {
    const { machineName, uri } = this.stage;
    const end = await this.understudy(['backup', machineName, '--connect', uri]);
    const [newest] = await this.ask<PointSummary[]>('points', machineName);
    if (newest === undefined) throw new ApplianceError('POINT_NOT_FOUND', 'the backup left no recovery point');
    const { point } = await this.ask<PointDetails>('point', 'show', newest.id);
    const sum = (name: 'changedBytes' | 'readBytes' | 'newChunkBytes' | 'storedBytes'): number =>
      point.disks.reduce((total, disk) => total + disk.stats[name], 0);
    return {
      point: point.id,
      kind: point.kind,
      consistency: point.consistency,
      changedBytes: sum('changedBytes'),
      readBytes: sum('readBytes'),
      newChunkBytes: sum('newChunkBytes'),
      storedBytes: sum('storedBytes'),
      backupMs: point.durationMs,
      commandMs: end.durationMs,
    };
  }

  /** Whether two disks have the same content, by QEMU's own judgement. */
  async haveSameContent(one: string, other: string): Promise<boolean> {
    const end = await runChild(['qemu-img', 'compare', '-U', one, other], { signal: this.stage.signal });
    // qemu-img(1): 0 identical, 1 different, 2 and more an error.
    if (end.exitCode > 1) throw new ApplianceError('TOOL_FAILED', `qemu-img compare: ${end.stderr.trim()}`);
    return end.exitCode === 0;
  }

  #shown(argument: string): string {
    return argument === this.stage.uri ? SHOWN_URI : argument.replace(this.stage.directory, '$DEMO');
  }

  /** Empty lines cost room here, and the directory's name is known. */
  #shortened(text: string): string {
    return text
      .replaceAll(/\n{2,}/g, '\n')
      .replaceAll(this.stage.uri, '$LIBVIRT')
      .replaceAll(this.stage.directory, '$DEMO');
  }
}

/** How long something takes. */
export async function timed<T>(work: () => Promise<T>): Promise<{ value: T; durationMs: number }> {
  const startedMs = systemClock.elapsedMs();
  const value = await work();
  return { value, durationMs: systemClock.elapsedMs() - startedMs };
}

function failure(args: readonly string[], end: ChildEnd): ApplianceError {
  const said = end.stderr.trim() || end.stdout.trim();
  return new ApplianceError('TOOL_FAILED', `understudy ${args.join(' ')} failed (exit code ${end.exitCode})\n${said}`, {
    // Its own hint is in what it said.
    hint: '',
  });
}
