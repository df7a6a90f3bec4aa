// SPDX-License-Identifier: Apache-2.0
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { canRun, type ProcessFigures } from './measured-process.ts';
import type { ProbeReport } from './probe.ts';
import { UnderstudyCommand } from './understudy-command.ts';
import type { Workspace } from './workspace.ts';

/** What one process of ours used of the machine, by the probe. */
export interface Usage {
  readonly row: string;
  readonly peakRssBytes: number;
  readonly maxDelayMs: number | undefined;
  /** The longest delays, and when after the start of the process. */
  readonly longest: ProbeReport['longest'];
}

/** One run of a benchmark: where it works, our commands, and what the processes of ours used. */
export class BenchRun {
  readonly workspace: Workspace;
  readonly understudy: UnderstudyCommand;
  readonly usages: Usage[] = [];
  readonly #beganMs = systemClock.elapsedMs();
  readonly #present = new Map<string, boolean>();
  #isInterrupted = false;

  constructor(workspace: Workspace) {
    this.workspace = workspace;
    this.understudy = new UnderstudyCommand(workspace);
  }

  /** Ctrl-C also ends the program that runs just now; everything that is open is cleaned up on the way out. */
  interrupt(): void {
    this.#isInterrupted = true;
  }

  /** Tells what comes next. @throws ApplianceError ABORTED when the benchmark was interrupted meanwhile */
  say(sentence: string): void {
    if (this.#isInterrupted) throw new ApplianceError('ABORTED', 'the benchmark was interrupted');
    const seconds = (systemClock.elapsedMs() - this.#beganMs) / 1000;
    process.stderr.write(`${seconds.toFixed(0).padStart(5)} s  ${sentence}\n`);
  }

  async has(command: string): Promise<boolean> {
    const known = this.#present.get(command);
    if (known !== undefined) return known;
    const isPresent = await canRun(command, command === 'restic' ? ['version'] : ['--version']);
    this.#present.set(command, isPresent);
    return isPresent;
  }

  /** Notes what a process of ours used. */
  use(row: string, by: ProcessFigures | ProbeReport | undefined): void {
    const probe = by !== undefined && 'probe' in by ? by.probe : by;
    if (probe === undefined) return;
    this.usages.push({ row, peakRssBytes: probe.peakRssBytes, maxDelayMs: probe.maxDelayMs, longest: probe.longest });
  }

  /** Those of the commands that cannot be started here. */
  async missing(commands: readonly string[]): Promise<string[]> {
    const missing: string[] = [];
    for (const command of commands) if (!(await this.has(command))) missing.push(command);
    return missing;
  }
}
