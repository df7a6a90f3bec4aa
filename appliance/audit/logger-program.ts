// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';

/** Runs `logger` (util-linux) with a line on its standard input; rejects when it fails, or is not there. */
export function runLogger(args: readonly string[], input: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('logger', args, { stdio: ['pipe', 'ignore', 'pipe'], signal });
    let errors = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(0, 500);
    });
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve();
      else reject(new Error(`logger ended with ${String(code)}: ${errors.trim()}`));
    });
    // It may have ended before it read anything; its exit code says why.
    child.stdin.on('error', () => undefined);
    child.stdin.end(`${input}\n`);
  });
}
