// SPDX-License-Identifier: Apache-2.0
import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';
import { storageError } from '../core/file-system.ts';

/** A log file that would become larger is put aside as `….1`, in the place of the one before: twice so much is kept at most. */
export const MAX_LOG_BYTES: number = 16 * 1024 * 1024;

/** What a log is written to, a line at a time. */
export interface LogStream {
  write(line: string): void;
}

/**
 * A log file of bounded size. Each line is written before the call returns: what led to the end of a process must not be lost
 * with it. A line that cannot be written (no room) is lost; how many were is the next line's beginning.
 */
export class LogFile implements LogStream {
  readonly #path: string;
  readonly #maxBytes: number;
  #fd: number;
  #sizeBytes: number;
  #lost = 0;

  /** @throws ApplianceError IO_FAILED, NO_SPACE */
  constructor(path: string, maxBytes: number = MAX_LOG_BYTES) {
    this.#path = path;
    this.#maxBytes = maxBytes;
    try {
      this.#fd = openSync(path, 'a', 0o600);
      this.#sizeBytes = fstatSync(this.#fd).size;
    } catch (error) {
      throw storageError(error, 'open', path);
    }
  }

  write(line: string): void {
    const note =
      this.#lost === 0 ? '' : `${JSON.stringify({ level: 40, msg: `${this.#lost} lines of the log were lost` })}\n`;
    const bytes = Buffer.from(`${note}${line}`, 'utf8');
    try {
      if (this.#sizeBytes > 0 && this.#sizeBytes + bytes.length > this.#maxBytes) this.#rotate();
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#fd, bytes, at);
      this.#sizeBytes += bytes.length;
      this.#lost = 0;
    } catch {
      // There is nowhere to say it now.
      this.#lost += 1;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** The new one is opened first: whatever fails, there is one to write to. */
  #rotate(): void {
    renameSync(this.#path, `${this.#path}.1`);
    const fd = openSync(this.#path, 'a', 0o600);
    closeSync(this.#fd);
    this.#fd = fd;
    this.#sizeBytes = fstatSync(fd).size;
  }
}

/** Lines with the priority that journald reads from their beginning. (sd-daemon(3), "Log levels") */
export function journalLines(stream: LogStream): LogStream {
  return {
    write: (line) => {
      const level = Number(/^\{"level":(\d+)/.exec(line)?.[1] ?? '30');
      stream.write(`<${PRIORITIES.find(([from]) => level >= from)?.[1] ?? 7}>${line}`);
    },
  };
}

/** pino's levels, and syslog's: critical, error, warning, informational; below that, debug. */
const PRIORITIES: readonly (readonly [from: number, priority: number])[] = [
  [60, 2],
  [50, 3],
  [40, 4],
  [30, 6],
];
