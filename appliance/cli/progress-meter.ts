// SPDX-License-Identifier: Apache-2.0
import type { Progress } from '../api/operations.ts';
import { formatBytes, formatCountdown, formatRate, plain } from './format.ts';

/** The rate is that of about the last seconds: long enough not to jump, short enough to follow. */
const WINDOW_MS = 10_000;
const MIN_SAMPLE_MS = 200;

/** Before this the first rate is a guess, and not shown. */
const WARM_UP_MS = 1_000;

const BAR_WIDTH = 24;

interface Sample {
  readonly atMs: number;
  readonly done: number;
}

/** Rate and time left of one phase, from the progress that was reported and when. Pure but for what it was told. */
export class ProgressMeter {
  private samples: Sample[] = [];
  private latest: Progress | undefined;

  update(reported: Progress, atMs: number): void {
    const progress = this.isContinued(reported) ? this.withoutStepBack(reported) : this.begin(reported, atMs);
    const last = this.samples.at(-1);
    if (last === undefined || atMs - last.atMs >= MIN_SAMPLE_MS) {
      this.samples.push({ atMs, done: progress.done });
      while (this.samples.length > 2 && atMs - (this.samples[1]?.atMs ?? atMs) >= WINDOW_MS) this.samples.shift();
    }
    this.latest = progress;
  }

  /** Units per second, or undefined while too little is known. */
  ratePerSecond(): number | undefined {
    const first = this.samples[0];
    const last = this.samples.at(-1);
    if (first === undefined || last === undefined || last.atMs - first.atMs < WARM_UP_MS) return undefined;
    return ((last.done - first.done) * 1000) / (last.atMs - first.atMs);
  }

  remainingMs(): number | undefined {
    const rate = this.ratePerSecond();
    const { latest } = this;
    if (latest === undefined || latest.total === 0 || rate === undefined || rate <= 0) return undefined;
    return ((latest.total - latest.done) * 1000) / rate;
  }

  /** The line to show, at most `width` characters. */
  line(width: number): string {
    const { latest } = this;
    if (latest === undefined) return '';
    const share = latest.total > 0 ? Math.min(1, latest.done / latest.total) : undefined;
    const rate = this.ratePerSecond();
    const remainingMs = this.remainingMs();
    const facts = [
      ...(share === undefined ? [] : [bar(share), `${String(Math.floor(share * 100)).padStart(3)} %`]),
      amount(latest),
      ...(rate === undefined ? [] : [latest.unit === 'bytes' ? formatRate(rate) : `${Math.round(rate)}/s`]),
      ...(remainingMs === undefined ? [] : [`ETA ${formatCountdown(remainingMs)}`]),
    ];
    return [plain(latest.phase), ...facts].join('  ').slice(0, Math.max(0, width));
  }

  /** Much less than before belongs to another piece of work of the same name. */
  private isContinued(progress: Progress): boolean {
    const { latest } = this;
    return latest !== undefined && progress.phase === latest.phase && progress.done >= latest.done / 2;
  }

  /** Parallel work may report in a slightly different order than it was done. */
  private withoutStepBack(progress: Progress): Progress {
    return { ...progress, done: Math.max(progress.done, this.latest?.done ?? 0) };
  }

  private begin(progress: Progress, atMs: number): Progress {
    this.samples = [{ atMs, done: progress.done }];
    return progress;
  }
}

function bar(share: number): string {
  const filled = Math.round(share * BAR_WIDTH);
  return '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled);
}

function amount({ done, total, unit }: Progress): string {
  const show = (value: number): string => (unit === 'bytes' ? formatBytes(value) : value.toLocaleString('en-US'));
  return total > 0 ? `${show(done)} of ${show(total)}` : show(done);
}
