// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process';
import { ApplianceError, systemErrorCode } from '../appliance/core/errors.ts';

export interface RunOptions {
  readonly cwd?: string;
  readonly timeoutMs?: number;
}

const DEFAULT_TIMEOUT_MS = 60_000;
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;
const STDERR_TAIL_LENGTH = 2000;

/** Runs a program to its end. Throws TOOL_MISSING, TOOL_FAILED with the end of its standard error. */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<{ stdout: string }> {
  const environment = { ...process.env, LC_ALL: 'C', PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
  const settings = {
    env: environment,
    maxBuffer: MAX_OUTPUT_BYTES,
    timeout: options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  };
  return await new Promise((resolve, reject) => {
    execFile(command, [...args], settings, (cause, stdout, stderr) => {
      if (cause === null) {
        resolve({ stdout });
        return;
      }
      const code = systemErrorCode(cause) === 'ENOENT' ? 'TOOL_MISSING' : 'TOOL_FAILED';
      const detail = stderr.trim().slice(-STDERR_TAIL_LENGTH);
      reject(new ApplianceError(code, `${command} ${args.join(' ')}: ${detail || cause.message}`, { cause }));
    });
  });
}

/** The same, with undefined for any failure. */
export async function tryRun(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<{ stdout: string } | undefined> {
  try {
    return await run(command, args, options);
  } catch (error) {
    if (error instanceof ApplianceError) return undefined;
    throw error;
  }
}
