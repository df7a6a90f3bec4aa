// SPDX-License-Identifier: Apache-2.0
import { subscribe } from 'node:diagnostics_channel';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { isMainThread } from 'node:worker_threads';

/*
 * A probe that is loaded in front of a program which does not know of it:
 *
 *   UNDERSTUDY_BENCH_PROBE=DIR node --import ./bench/probe.ts appliance/cli.ts …
 *
 * When the process ends, or gets SIGUSR2, it leaves DIR/<pid>.json (`ProbeReport`): the peak of its resident memory with
 * all threads (VmHWM of proc(5); child processes not included), processor time, and how late the main thread's event loop
 * was. The delay counts from the start of the first worker thread on: before it, modules are loaded, and nobody waits.
 */

/** What the probe leaves. */
export interface ProbeReport {
  readonly pid: number;
  readonly peakRssBytes: number;
  readonly cpuMs: number;
  readonly uptimeMs: number;
  /** Longest time that the event loop was late since the first worker thread; undefined when there was none. */
  readonly maxDelayMs: number | undefined;
  /** The same before that: loading modules. */
  readonly maxStartDelayMs: number;
  /** When after the start of the process the longest delays ended, longest first. */
  readonly longest: readonly Delay[];
}

export interface Delay {
  readonly atMs: number;
  readonly delayMs: number;
  /**
   * Of the 100 ms around it, how long the main thread was ready to run but had no processor (proc(5), schedstat): a delay
   * that is not longer is the machine's, not the program's.
   */
  readonly waitedMs: number;
  /** How long it ran; what is left of a delay it slept in a system call. */
  readonly ranMs: number;
}

/** The timer of the measurement; a delay is what comes on top of it. */
const RESOLUTION_MS = 1;
const WINDOW_MS = 100;
const KEPT_WINDOWS = 10;

const directory: string | undefined = process.env['UNDERSTUDY_BENCH_PROBE'];
if (isMainThread && directory !== undefined) install(directory);

function install(into: string): void {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  let startedAtMs: number | undefined;
  let maxStartDelayMs = 0;
  let longest: Delay[] = [];
  let before = schedulerTimes();
  const takeWindow = (): void => {
    if (histogram.count === 0) return;
    const delayMs = Math.max(0, histogram.max / 1e6 - RESOLUTION_MS);
    histogram.reset();
    const now = schedulerTimes();
    const times = { waitedMs: now.waitedMs - before.waitedMs, ranMs: now.ranMs - before.ranMs };
    before = now;
    if (startedAtMs === undefined) maxStartDelayMs = Math.max(maxStartDelayMs, delayMs);
    else longest = [...longest, { atMs: performance.now(), delayMs, ...times }].sort((a, b) => b.delayMs - a.delayMs);
    longest = longest.slice(0, KEPT_WINDOWS);
  };
  const leave = (): void => {
    takeWindow();
    const report: ProbeReport = {
      pid: process.pid,
      peakRssBytes: peakRssBytes(),
      cpuMs: (process.cpuUsage().user + process.cpuUsage().system) / 1000,
      uptimeMs: process.uptime() * 1000,
      maxDelayMs: startedAtMs === undefined ? undefined : (longest[0]?.delayMs ?? 0),
      maxStartDelayMs,
      longest,
    };
    mkdirSync(into, { recursive: true });
    writeFileSync(join(into, `${process.pid}.json`), JSON.stringify(report));
  };
  subscribe('worker_threads', () => {
    if (startedAtMs !== undefined) return;
    takeWindow();
    startedAtMs = performance.now();
  });
  histogram.enable();
  setInterval(takeWindow, WINDOW_MS).unref();
  process.on('exit', leave);
  process.on('SIGUSR2', leave);
}

/** How long the main thread has run, and has waited for a processor; zeroes where the kernel does not tell. */
function schedulerTimes(): { readonly ranMs: number; readonly waitedMs: number } {
  try {
    const [ran = '0', waited = '0'] = readFileSync('/proc/self/schedstat', 'latin1').split(' ');
    return { ranMs: Number(ran) / 1e6, waitedMs: Number(waited) / 1e6 };
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return { ranMs: 0, waitedMs: 0 };
    throw error;
  }
}

function peakRssBytes(): number {
  const kibibytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1];
  return Number(kibibytes ?? 0) * 1024;
}
