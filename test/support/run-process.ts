// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../../appliance/core/clock.ts';
import { systemErrorCode } from '../../appliance/core/errors.ts';
import type { ProcessEnd } from './verdict.ts';

/** How long processes that were told to end may take to disappear. */
const GROUP_END_LIMIT_MS = 1_000;

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
 * Runs a program as the leader of its own process group and waits for its end. Whatever is left of the group then is
 * named and killed. Standard input is empty.
 */
export async function runProcess(command: readonly string[], options: ProcessOptions): Promise<ProcessEnd> {
  const [program, ...args] = command;
  const child = spawn(program ?? '', args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: options.env ?? process.env,
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
    const leftBehind = await endGroup(pid);
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

/** Kills what is left of a process group; returns the command lines of those that did not go by themselves. */
async function endGroup(groupId: number): Promise<string[]> {
  const deadline = systemClock.elapsedMs() + GROUP_END_LIMIT_MS;
  let members = await groupMembers(groupId);
  while (members.length > 0 && systemClock.elapsedMs() < deadline) {
    await delay(20);
    members = await groupMembers(groupId);
  }
  if (members.length > 0) killGroup(groupId);
  return members;
}

/** Command lines of the living processes of a group (zombies that nobody reaps do not count). */
async function groupMembers(groupId: number): Promise<string[]> {
  if (!isGroupAlive(groupId)) return [];
  const members: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    try {
      // proc(5): pid (comm) state ppid pgrp …; comm may hold spaces and brackets.
      const stat = await readFile(`/proc/${pid}/stat`, 'latin1');
      const [state, , pgrp] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (Number(pgrp) !== groupId || state === 'Z' || state === 'X') continue;
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8');
      members.push(`${command.replaceAll('\0', ' ').trim()} (pid ${pid})`);
    } catch (error) {
      if (!['ENOENT', 'ESRCH'].includes(systemErrorCode(error) ?? '')) throw error;
    }
  }
  return members;
}

function isGroupAlive(groupId: number): boolean {
  return signalGroup(groupId, 0);
}

function killGroup(groupId: number): void {
  signalGroup(groupId, 'SIGKILL');
}

function signalGroup(groupId: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-groupId, signal);
  } catch (error) {
    if (systemErrorCode(error) === 'ESRCH') return false;
    throw error;
  }
}
