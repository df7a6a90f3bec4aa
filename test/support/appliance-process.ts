// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { PointSummary } from '../../appliance/api/operations.ts';
import type { ErrorCode } from '../../appliance/core/error-codes.ts';
import { systemErrorCode } from '../../appliance/core/errors.ts';
import { LiveProcess, type ProcessResult } from './live-process.ts';
import type { Resource } from './test-scope.ts';

const SCRIPT: string = new URL('../../appliance/cli.ts', import.meta.url).pathname;
const POLL_MS = 5;

/** What a command with `--json` says when it fails. */
export interface CommandError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>>;
  readonly exitCode: number;
}

/** Where the processes of a rig are handed over for disposal: a test context, or a stack of a campaign's own. */
export interface ResourceOwner {
  use<T extends Resource>(resource: T): T;
}

/** The real command line, as processes, on one state directory. */
export class ApplianceProcess {
  readonly state: string;
  readonly repository: string;
  readonly #owner: ResourceOwner;

  /** The repository lies where `init` puts it, unless it is said. */
  constructor(owner: ResourceOwner, state: string, repository: string = join(state, 'repository')) {
    this.#owner = owner;
    this.state = state;
    this.repository = repository;
  }

  start(...words: readonly string[]): LiveProcess {
    const env = { ...process.env, UNDERSTUDY_STATE: this.state, NO_COLOR: '1' };
    return this.#owner.use(new LiveProcess([process.execPath, SCRIPT, ...words], env));
  }

  run(...words: readonly string[]): Promise<ProcessResult> {
    return this.start(...words).result;
  }

  /** Runs with `--json`, expects success, and returns the document. */
  async ask<T>(...words: readonly string[]): Promise<T> {
    const { exitCode, stdout, stderr } = await this.run(...words, '--json');
    assert.equal(exitCode, 0, `${words.join(' ')}: ${stdout}${stderr}`);
    return JSON.parse(stdout) as T;
  }

  /** Runs with `--json`, expects this error with its exit code and a hint, and returns it. */
  async refused(code: ErrorCode, ...words: readonly string[]): Promise<CommandError> {
    return errorOf(await this.run(...words, '--json'), code);
  }

  /** Starts `serve` and settles when it answers. */
  async serve(...words: readonly string[]): Promise<LiveProcess> {
    const service = this.start('serve', '--json', '--log-level', 'warn', ...words);
    await service.until(({ stdout }) => stdout.includes('\n}\n'));
    return service;
  }

  points(): Promise<PointSummary[]> {
    return this.ask<PointSummary[]>('points');
  }

  /** The content of a disk of a point, restored through the command line to a file that is removed again. */
  async restored(point: string, ...words: readonly string[]): Promise<Buffer> {
    const path = join(tmpdir(), `us-restored-${randomUUID()}.raw`);
    await this.ask('restore', point, '--to', path, ...words);
    const bytes = await readFile(path);
    await rm(path);
    return bytes;
  }

  /** Bytes of unfinished packs. */
  async stagedBytes(): Promise<number> {
    const staging = join(this.repository, 'staging');
    let total = 0;
    for (const name of await readdir(staging))
      total += (await stat(join(staging, name)).catch(() => undefined))?.size ?? 0;
    return total;
  }

  /** Settles when the process has written so much of a pack; fails when it ends before. */
  async untilStaged(running: LiveProcess, bytes: number = 1): Promise<void> {
    while ((await this.stagedBytes()) < bytes) {
      assert.ok(isRunning(running), `ended before anything was staged:\n${running.stdout}${running.stderr}`);
      await delay(POLL_MS);
    }
  }
}

/** Checks what a process with `--json` said. */
export function errorOf({ exitCode, stdout, stderr }: ProcessResult, code: ErrorCode): CommandError {
  assert.notEqual(exitCode, 0, `expected ${code}: ${stdout}`);
  const { error } = JSON.parse(stdout === '' ? 'null' : stdout) as { error: CommandError };
  assert.equal(error.code, code, `${stdout}${stderr}`);
  assert.equal(error.exitCode, exitCode);
  assert.ok(error.hint.length > 10, `a hint: ${stdout}`);
  return error;
}

export function isRunning({ child }: LiveProcess): boolean {
  return child.exitCode === null && child.signalCode === null;
}

/** Asserts equality without printing megabytes. */
export function assertSameBytes(actual: Buffer, expected: Buffer, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: the length`);
  if (actual.equals(expected)) return;
  const at = actual.findIndex((byte, n) => byte !== expected[n]);
  assert.fail(`${what}: the first different byte is at ${at} of ${actual.length}`);
}

/** Settles when a file is there. */
export async function untilThere(path: string): Promise<void> {
  for (;;) {
    try {
      await stat(path);
      return;
    } catch (error) {
      assert.equal(systemErrorCode(error), 'ENOENT');
    }
    await delay(POLL_MS);
  }
}
