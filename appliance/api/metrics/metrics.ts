// SPDX-License-Identifier: Apache-2.0
import { readdir, readFile } from 'node:fs/promises';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Clock } from '../../core/clock.ts';
import { storageError } from '../../core/file-system.ts';
import type { EventHub } from '../events/event-hub.ts';
import type { RunService } from '../runs/run-service.ts';
import type { RunSummary } from '../schemas/runs.ts';
import type { Figures } from './figures.ts';
import { FIGURE_METRICS, type FigureMetric } from './metric-table.ts';

/** Figures are not gathered anew for a while: several may ask for metrics, and each for all of them. */
const FIGURES_AGE_MS = 5_000;
const EVENT_LOOP_RESOLUTION_MS = 20;
const RUN_SECONDS: readonly number[] = [0.1, 1, 10, 60, 300, 1_800, 7_200, 28_800, 86_400];

export interface MetricsParts {
  readonly figures: () => Promise<Figures>;
  readonly eventHub: EventHub;
  readonly runService: RunService;
  readonly version: string;
  readonly clock: Clock;
}

/** The metrics of one service, in a registry of their own. */
export class Metrics implements Disposable {
  readonly registry: Registry = new Registry();
  readonly #parts: MetricsParts;
  readonly #delay: ReturnType<typeof monitorEventLoopDelay>;
  readonly #listening: Disposable;
  #figures: { readonly atMs: number; readonly value: Promise<Figures> } | undefined;

  constructor(parts: MetricsParts) {
    this.#parts = parts;
    this.#delay = monitorEventLoopDelay({ resolution: EVENT_LOOP_RESOLUTION_MS });
    this.#delay.enable();
    for (const metric of FIGURE_METRICS) this.#addFigure(metric);
    this.#addProcess();
    this.#listening = this.#addRuns();
  }

  /** All of them, as text. Errors as the figures'. */
  text(): Promise<string> {
    return this.registry.metrics();
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  [Symbol.dispose](): void {
    this.#delay.disable();
    this.#listening[Symbol.dispose]();
  }

  #gather(): Promise<Figures> {
    const atMs = this.#parts.clock.elapsedMs();
    if (this.#figures === undefined || atMs - this.#figures.atMs >= FIGURES_AGE_MS) {
      const value = this.#parts.figures();
      value.catch(() => {
        this.#figures = undefined;
      });
      this.#figures = { atMs, value };
    }
    return this.#figures.value;
  }

  /** prom-client asks a metric for its lines; these come from the figures, instead of being counted by it. */
  #addFigure({ name, type, help, lines }: FigureMetric): void {
    const get = async (): Promise<object> => {
      const found = lines(await this.#gather(), this.#parts.clock.nowMs());
      const values = found.map(({ labels, value, suffix = '' }) => ({ labels, value, metricName: `${name}${suffix}` }));
      return { name, type, help, values, aggregator: 'sum' };
    };
    const metric = { name, type, help, get };
    this.registry.registerMetric(metric as unknown as Gauge);
  }

  #addProcess(): void {
    const registers = [this.registry];
    const delay = this.#delay;
    const build = new Gauge({
      name: 'understudy_build_info',
      help: 'The version, as a label; always 1.',
      labelNames: ['version'],
      registers,
    });
    build.set({ version: this.#parts.version }, 1);
    new Gauge({
      name: 'understudy_event_loop_delay_seconds',
      help: 'By how much the main loop came late, since the last time this was asked for.',
      labelNames: ['quantile'],
      registers,
      collect() {
        for (const quantile of [0.5, 0.99]) {
          this.set({ quantile: String(quantile) }, delay.percentile(100 * quantile) / 1e9);
        }
        this.set({ quantile: '1' }, delay.max / 1e9);
        delay.reset();
      },
    });
    new Gauge({
      name: 'understudy_process_memory_bytes',
      help: 'Memory of the process: resident, in use by JavaScript, and in buffers.',
      labelNames: ['kind'],
      registers,
      collect() {
        const { rss, heapUsed, external } = process.memoryUsage();
        for (const [kind, bytes] of Object.entries({ resident: rss, heap: heapUsed, external }))
          this.set({ kind }, bytes);
      },
    });
    new Gauge({
      name: 'understudy_process_open_files',
      help: 'Open files of the process, sockets included.',
      registers,
      async collect() {
        this.set(await openFiles());
      },
    });
    new Gauge({
      name: 'understudy_process_open_files_limit',
      help: 'How many it may have.',
      registers,
      async collect() {
        this.set(await openFilesLimit());
      },
    });
  }

  #addRuns(): Disposable {
    const { eventHub, runService } = this.#parts;
    const registers = [this.registry];
    new Gauge({
      name: 'understudy_runs',
      help: 'Runs that wait and that run.',
      labelNames: ['state'],
      registers,
      collect() {
        const live = runService.live();
        for (const state of ['queued', 'running'])
          this.set({ state }, live.filter((run) => run.state === state).length);
      },
    });
    const ended = new Counter({
      name: 'understudy_runs_ended_total',
      help: 'Runs that have ended, by operation and state.',
      labelNames: ['operation', 'state'],
      registers,
    });
    const duration = new Histogram({
      name: 'understudy_run_duration_seconds',
      help: 'How long runs took, by operation.',
      labelNames: ['operation'],
      buckets: [...RUN_SECONDS],
      registers,
    });
    return eventHub.listen(({ type, data }) => {
      if (type !== 'run') return;
      const run = data as RunSummary;
      if (run.endedAt === null) return;
      ended.inc({ operation: run.operation, state: run.state });
      if (run.startedAt === null) return;
      duration.observe({ operation: run.operation }, (Date.parse(run.endedAt) - Date.parse(run.startedAt)) / 1000);
    });
  }
}

async function openFiles(): Promise<number> {
  try {
    return (await readdir('/proc/self/fd')).length;
  } catch (error) {
    throw storageError(error, 'list', '/proc/self/fd');
  }
}

async function openFilesLimit(): Promise<number> {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(await readFile('/proc/self/limits', 'utf8'))?.[1];
    return Number(limit ?? Number.POSITIVE_INFINITY);
  } catch (error) {
    throw storageError(error, 'read', '/proc/self/limits');
  }
}
