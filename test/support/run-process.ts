// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../../appliance/core/clock.ts';
import { systemErrorCode } from '../../appliance/core/errors.ts';
import { patience } from './patience.ts';
import type { ProcessEnd } from './verdict.ts';

/** Marks everything that a process starts, daemons included, which leave its group but keep its environment. */
const FAMILY_VARIABLE = 'UNDERSTUDY_TEST_FAMILY';

/** How long processes that were told to end may take to disappear. */
const END_LIMIT_MS = 3_000;

/** Output beyond it is dropped in the middle, so that a file that prints in a loop cannot fill the memory. */
const HEAD_LIMIT_CHARS = 512 * 1024;
const TAIL_LIMIT_CHARS = 128 * 1024;

export interface ProcessOptions {
  readonly limitMs: number;
  readonly env?: NodeJS.ProcessEnv;
  /** Kills the process and settles, when aborted. */
  readonly signal?: AbortSignal;
}

/**
 * Runs a program as the leader of its own process group and waits for its end. Whatever is left then of the group, or of
 * what descended from it, is named and killed. Standard input is empty.
 */
export async function runProcess(command: readonly string[], options: ProcessOptions): Promise<ProcessEnd> {
  const [program, ...args] = command;
  const family = randomUUID();
  const child = spawn(program ?? '', args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...(options.env ?? process.env), [FAMILY_VARIABLE]: family },
  });
  const output = captureOutput(child);
  const closed = once(child, 'close');
  const pid = child.pid;
  if (pid === undefined) {
    await closed.catch((error: unknown) => output.append(`\n${program} could not be started: ${String(error)}\n`));
    return { output: output.text(), exitCode: 127, signal: null, wasKilledAtLimit: false, leftBehind: [] };
  }
  let wasKilledAtLimit = false;
  const timer = setTimeout(() => {
    wasKilledAtLimit = true;
    killGroup(pid);
  }, options.limitMs);
  const onAbort = (): void => killGroup(pid);
  options.signal?.addEventListener('abort', onAbort);
  try {
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    const leftBehind = await endFamily(pid, family);
    await closed;
    return { output: output.text(), exitCode: child.exitCode, signal: child.signalCode, wasKilledAtLimit, leftBehind };
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
  }
}

interface Capture {
  append(text: string): void;
  text(): string;
}

function captureOutput(child: ChildProcess): Capture {
  let head = '';
  let tail = '';
  let isCut = false;
  const capture: Capture = {
    append: (text) => {
      if (head.length < HEAD_LIMIT_CHARS) head += text;
      else tail += text;
      if (tail.length > 2 * TAIL_LIMIT_CHARS) {
        tail = tail.slice(-TAIL_LIMIT_CHARS);
        isCut = true;
      }
    },
    text: () => (isCut ? `${head}\n[… output cut here …]\n${tail}` : head + tail),
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => capture.append(text));
  }
  return capture;
}

interface Relative {
  readonly pid: number;
  readonly command: string;
}

/** Kills what is left of a process and its descendants; returns those that did not go by themselves. */
async function endFamily(groupId: number, family: string): Promise<string[]> {
  const deadlineMs = systemClock.elapsedMs() + END_LIMIT_MS * patience();
  let left = await relatives(groupId, family);
  while (left.length > 0 && systemClock.elapsedMs() < deadlineMs) {
    await delay(20);
    left = await relatives(groupId, family);
  }
  killGroup(groupId);
  for (const { pid } of left) sendSignal(pid, 'SIGKILL');
  return left.map(({ pid, command }) => `${command} (pid ${pid})`);
}

/** Living processes of the group or with the family's mark (zombies that nobody reaps do not count). */
async function relatives(groupId: number, family: string): Promise<Relative[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(pids.map((pid) => asRelative(pid, groupId, family)));
  return found.filter((one) => one !== undefined);
}

async function asRelative(pid: number, groupId: number, family: string): Promise<Relative | undefined> {
  try {
    // proc(5): pid (comm) state ppid pgrp …; comm may hold spaces and brackets.
    const stat = await readFile(`/proc/${pid}/stat`, 'latin1');
    const [state, , pgrp] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (state === 'Z' || state === 'X') return undefined;
    if (Number(pgrp) !== groupId && !(await hasMark(pid, family))) return undefined;
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8');
    return { pid, command: command.replaceAll('\0', ' ').trim() };
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(systemErrorCode(error) ?? '')) return undefined;
    throw error;
  }
}

async function hasMark(pid: number, family: string): Promise<boolean> {
  try {
    return (await readFile(`/proc/${pid}/environ`, 'latin1')).includes(`${FAMILY_VARIABLE}=${family}`);
  } catch (error) {
    // Somebody else's process is not ours.
    if (['EACCES', 'EPERM'].includes(systemErrorCode(error) ?? '')) return false;
    throw error;
  }
}

function killGroup(groupId: number): void {
  sendSignal(-groupId, 'SIGKILL');
}

function sendSignal(target: number, signal: NodeJS.Signals): void {
  try {
    process.kill(target, signal);
  } catch (error) {
    if (systemErrorCode(error) !== 'ESRCH') throw error;
  }
}
