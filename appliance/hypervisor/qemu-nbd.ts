// SPDX-License-Identifier: Apache-2.0
import { connect } from 'node:net';
import { ApplianceError } from '../core/errors.ts';
import { ChildProgram } from './child-program.ts';

/** What `qemu-nbd` serves: an image that no machine has open (its locks see to that). */
export interface QemuNbdOptions {
  readonly path: string;
  readonly format: string;
  readonly socketPath: string;
  readonly exportName: string;
  /** A persistent bitmap to export as `qemu:dirty-bitmap:<name>`; read-only exports only. */
  readonly bitmap?: string;
  /** Take writes; default is read-only. */
  readonly isWritable?: boolean;
  /** Read an image file that a running machine has open: what it says of places that the machine changes may be old. */
  readonly isShared?: boolean;
}

const START_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 10_000;

/**
 * A `qemu-nbd` process that serves one image over a unix socket until it is closed. The image is locked meanwhile: a
 * machine that has it for writing makes the start fail, and cannot start while a writable one runs. It must not outlive us.
 * @throws ApplianceError TOOL_MISSING, TOOL_FAILED with the program's message, TIMED_OUT
 */
export class QemuNbd implements AsyncDisposable {
  readonly #program: ChildProgram;

  private constructor(program: ChildProgram) {
    this.#program = program;
  }

  static async start(options: QemuNbdOptions): Promise<QemuNbd> {
    const { path, socketPath } = options;
    const args = ['--persistent', '--shared=8', ...imageArguments(options), '--socket', socketPath];
    args.push('--export-name', options.exportName, '--cache=none', '--aio=threads');
    if (options.isWritable === true) args.push('--discard=unmap', '--detect-zeroes=off');
    else args.push('--read-only');
    if (options.bitmap !== undefined) args.push('--bitmap', options.bitmap);
    const program = await ChildProgram.start({
      command: 'qemu-nbd',
      args: [...args, imageOperand(options)],
      isReady: () => answers(socketPath),
      startTimeoutMs: START_TIMEOUT_MS,
      stopTimeoutMs: STOP_TIMEOUT_MS,
      onEnded: (stderr) =>
        new ApplianceError('TOOL_FAILED', `qemu-nbd cannot serve ${path}: ${stderr}`, {
          details: { command: 'qemu-nbd', stderr },
        }),
      onLate: () => new ApplianceError('TIMED_OUT', `qemu-nbd does not answer for ${path}`),
    });
    return new QemuNbd(program);
  }

  /** Ends the process and waits for it. Idempotent. Clients should have disconnected. */
  close(): Promise<void> {
    return this.#program.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function imageArguments({ isShared, format }: QemuNbdOptions): string[] {
  return isShared === true ? ['--image-opts'] : ['--format', format];
}

/**
 * qemu-nbd has no option for sharing; the image's own options have. A mirror's target is locked against all readers, so
 * locks are left out. A comma in a value is doubled.
 */
function imageOperand({ isShared, format, path }: QemuNbdOptions): string {
  if (isShared !== true) return path;
  return `driver=${format},force-share=on,file.driver=file,file.locking=off,file.filename=${path.replaceAll(',', ',,')}`;
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
