// SPDX-License-Identifier: Apache-2.0
import type { Readable, Writable } from 'node:stream';
import { type Clock, systemClock } from '../core/clock.ts';

/** A stream that may be a terminal. */
export type OutputStream = Writable & { readonly isTTY?: boolean; readonly columns?: number };
export type InputStream = Readable & { readonly isTTY?: boolean; setRawMode?(isRaw: boolean): unknown };

/** All that a command uses of its process, so that tests run commands without one. */
export interface CliIo {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly workingDirectory: string;
  readonly homeDirectory: string;
  readonly isRoot: boolean;
  readonly clock: Clock;
  /** Calls the listener for SIGINT, SIGTERM and SIGHUP until disposed. */
  onSignal(listener: (signal: string) => void): Disposable;
  /** Ends the process at once; for a second signal only. */
  exit(code: number): void;
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** The process's own. */
export function processIo(homeDirectory: string): CliIo {
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    workingDirectory: process.cwd(),
    homeDirectory,
    isRoot: process.geteuid?.() === 0,
    clock: systemClock,
    onSignal: (listener) => {
      for (const signal of SIGNALS) process.on(signal, listener);
      return {
        [Symbol.dispose]: () => {
          for (const signal of SIGNALS) process.off(signal, listener);
        },
      };
    },
    exit: (code) => process.exit(code),
  };
}
