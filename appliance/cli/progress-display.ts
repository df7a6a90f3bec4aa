// SPDX-License-Identifier: Apache-2.0
import { SingleBar } from 'cli-progress';
import type { Progress } from '../api/operations.ts';
import type { CliIo } from './io.ts';
import { ProgressMeter } from './progress-meter.ts';

const REDRAWS_PER_SECOND = 10;
const DEFAULT_COLUMNS = 80;

/** One line on standard error that follows a long operation. For terminals only; the caller decides. */
export class ProgressDisplay implements Disposable {
  private readonly io: CliIo;
  private readonly meter = new ProgressMeter();
  private bar: SingleBar | undefined;

  constructor(io: CliIo) {
    this.io = io;
  }

  update(progress: Progress): void {
    this.meter.update(progress, this.io.clock.elapsedMs());
    this.bar ??= this.start();
    this.bar.update(progress.done);
  }

  /** Writes whole lines above the moving one. */
  write(text: string): void {
    this.clear();
    this.io.stderr.write(text);
  }

  /** Takes the line away; the next update draws it again. */
  clear(): void {
    this.bar?.stop();
    this.bar = undefined;
  }

  [Symbol.dispose](): void {
    this.clear();
  }

  /** Some terminals, serial consoles among them, say that they have none. */
  private columns(): number {
    const { columns = 0 } = this.io.stderr;
    return columns > 0 ? columns : DEFAULT_COLUMNS;
  }

  private start(): SingleBar {
    const bar = new SingleBar({
      stream: this.io.stderr,
      format: () => this.meter.line(this.columns() - 1),
      fps: REDRAWS_PER_SECOND,
      clearOnComplete: true,
      stopOnComplete: false,
      // A hidden cursor stays hidden when the process is killed, and signals are ours.
      hideCursor: false,
      linewrap: true,
      gracefulExit: false,
      emptyOnZero: true,
    });
    bar.start(1, 0);
    return bar;
  }
}
