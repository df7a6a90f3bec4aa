// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError, systemErrorCode } from '../appliance/core/errors.ts';
import type { ProbeReport } from './probe.ts';

/** What a program took. */
export interface ProcessFigures {
  readonly wallMs: number;
  /** All threads; read while it ran, so short of the end by one poll at most. */
  readonly cpuMs: number;
  readonly peakRssBytes: number;
  readonly stdout: string;
  /** Left by `probe.ts`, when it was loaded. */
  readonly probe: ProbeReport | undefined;
}

export interface ProcessOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly timeoutMs?: number;
  /** Where `probe.ts` leaves its report. */
  readonly probeDirectory?: string;
  /** What it prints is thrown away. */
  readonly discardsOutput?: boolean;
}

const POLL_MS = 50;
const DEFAULT_TIMEOUT_MS = 30 * 60_000;
const STDERR_TAIL_LENGTH = 2000;
/** proc(5): USER_HZ, which is 100 on every Linux that Node runs on. */
const TICK_MS = 10;

/** Runs a program to its end and measures it. @throws ApplianceError TOOL_MISSING, TOOL_FAILED, TIMED_OUT */
export async function measureProcess(
  command: string,
  args: readonly string[],
  options: ProcessOptions = {},
): Promise<ProcessFigures> {
  const started = systemClock.elapsedMs();
  const child = spawn(command, [...args], {
    stdio: ['ignore', options.discardsOutput === true ? 'ignore' : 'pipe', 'pipe'],
    env: childEnvironment(options),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-STDERR_TAIL_LENGTH);
  });
  const { timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  const watch = new ProcessWatch(child.pid);
  try {
    const { code, endedAt } = await endOf(command, child);
    const wallMs = endedAt - started;
    if (code !== 0) {
      const isLate = wallMs >= timeoutMs;
      const message = `${command} ${args.join(' ')}: ${stderr.trim() || stdout.trim().slice(-STDERR_TAIL_LENGTH)}`;
      throw new ApplianceError(isLate ? 'TIMED_OUT' : 'TOOL_FAILED', message, { details: { exitCode: code } });
    }
    const probe = readProbe(options.probeDirectory, child.pid);
    return {
      wallMs,
      cpuMs: probe?.cpuMs ?? watch.cpuMs,
      peakRssBytes: probe?.peakRssBytes ?? watch.peakRssBytes,
      stdout,
      probe,
    };
  } finally {
    clearTimeout(timer);
    watch.stop();
  }
}

export function childEnvironment(options: ProcessOptions): NodeJS.ProcessEnv {
  const probe = options.probeDirectory === undefined ? {} : { UNDERSTUDY_BENCH_PROBE: options.probeDirectory };
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  return { ...process.env, LC_ALL: 'C', PATH: path, ...probe, ...options.env };
}

/** What the probe of a process left, if it did. */
export function readProbe(directory: string | undefined, pid: number | undefined): ProbeReport | undefined {
  if (directory === undefined || pid === undefined) return undefined;
  try {
    return JSON.parse(readFileSync(join(directory, `${pid}.json`), 'utf8')) as ProbeReport;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** True when a program of this name can be started. */
export async function canRun(command: string, args: readonly string[] = ['--version']): Promise<boolean> {
  try {
    await measureProcess(command, args, { timeoutMs: 10_000 });
    return true;
  } catch (error) {
    if (error instanceof ApplianceError) return error.code === 'TOOL_FAILED';
    throw error;
  }
}

async function endOf(
  command: string,
  child: ChildProcess,
): Promise<{ readonly code: number | null; readonly endedAt: number }> {
  let endedAt = 0;
  return await new Promise((resolve, reject) => {
    child.on('error', (cause) => {
      const code = systemErrorCode(cause) === 'ENOENT' ? 'TOOL_MISSING' : 'TOOL_FAILED';
      reject(new ApplianceError(code, `${command} cannot be started`, { cause }));
    });
    child.on('exit', () => {
      endedAt = systemClock.elapsedMs();
    });
    child.on('close', (code) => {
      resolve({ code, endedAt });
    });
  });
}

/** Follows the processor time and memory of a process while it runs. */
class ProcessWatch {
  readonly #timer: NodeJS.Timeout;
  cpuMs = 0;
  peakRssBytes = 0;

  constructor(pid: number | undefined) {
    this.#timer = setInterval(() => {
      this.#look(pid);
    }, POLL_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(pid: number | undefined): void {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      this.cpuMs = (Number(fields[11]) + Number(fields[12])) * TICK_MS;
      const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
      if (peak !== undefined) this.peakRssBytes = Number(peak) * 1024;
    } catch (error) {
      // It has ended since the last look.
      if (!['ENOENT', 'ESRCH'].includes(systemErrorCode(error) ?? '')) throw error;
    }
  }
}
