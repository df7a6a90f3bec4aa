// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';
import { localPrincipal } from '../../access/principal.ts';
import type { ExportReport } from '../../api/operations.ts';
import { ApplianceError } from '../../core/errors.ts';
import { type CommandRun, defined, type Outcome } from '../command-run.ts';
import { defineCommand } from '../define-command.ts';
import { formatBytes, plain } from '../format.ts';
import { POINT_ARGUMENT } from '../point-argument.ts';
import type { CliRun } from '../run-cli.ts';
import { stateText } from '../state-text.ts';

interface ExportOptions {
  readonly socket?: string;
  readonly listen?: string;
  readonly writable?: boolean;
}

/** How long the end of an export may take once it was interrupted. */
const UNEXPORT_LIMIT_MS = 15_000;

export function addExport(program: Command, cli: CliRun): void {
  defineCommand<ExportOptions>(program, cli, {
    usage: 'export <point> [disk]',
    summary: 'serve a disk of a recovery point over NBD',
    description:
      'Serves a disk of a recovery point over NBD until it is interrupted, prints its URI on standard output, and exits ' +
      `with 0. The disk can be left out when there is only one. ${POINT_ARGUMENT}\n\nWith --writable, writes are taken ` +
      'into a log of their own, which is gone when the export ends; the point never changes.',
    examples: [
      ['understudy export web@latest', 'the only disk, on a unix socket'],
      ['understudy export 3f2a vda --listen 127.0.0.1:10809', 'the disk vda, on TCP'],
      ['nbdcopy "$URI" disk.raw', 'what to do with the URI, for example'],
    ],
    options: (command) =>
      command
        .option('--socket <path>', 'listen on this unix socket (default: one in the state directory)')
        .option('--listen <host:port>', 'listen on TCP; port 0 takes any free one')
        .option('--writable', 'take writes, for as long as the export lives'),
    action: exportDisk,
  });
}

async function exportDisk(
  run: CommandRun,
  [point = '', disk]: readonly string[],
  options: ExportOptions,
): Promise<undefined> {
  const { socket, listen, writable } = options;
  if (socket !== undefined && listen !== undefined) {
    throw new ApplianceError('BAD_ARGUMENT', 'an export listens on a --socket or with --listen, not both');
  }
  const path = socket === undefined ? undefined : run.path(socket);
  const report = await run.call('export', defined({ point, disk, socket: path, listen, writable }));
  run.emit({ value: report, text: `${plain(report.uri)}\n` } satisfies Outcome);
  if (!run.isJson) run.writeError(describe(report));
  await serveUntilInterrupted(run, report);
}

async function serveUntilInterrupted(run: CommandRun, { id }: ExportReport): Promise<void> {
  const { appliance, exportEnded } = await run.connected();
  const interrupted = Promise.withResolvers<'interrupted'>();
  const interrupt = (): void => interrupted.resolve('interrupted');
  run.signal.addEventListener('abort', interrupt);
  if (run.signal.aborted) interrupt();
  const keepAlive = setInterval(() => undefined, 2 ** 30);
  try {
    const end = await Promise.race([interrupted.promise, exportEnded(id).then(() => 'ended' as const)]);
    if (end === 'ended') {
      throw new ApplianceError('SERVICE_UNREACHABLE', 'the export ended with the service that held it', {
        hint: 'Run the command again.',
      });
    }
    const signal = AbortSignal.timeout(UNEXPORT_LIMIT_MS);
    const principal = localPrincipal();
    await appliance.unexport(
      { id },
      { principal, signal, onProgress: () => undefined, onNotice: (text) => run.notice(text) },
    );
  } finally {
    clearInterval(keepAlive);
    run.signal.removeEventListener('abort', interrupt);
  }
}

function describe(report: ExportReport): string {
  const access = report.writable ? 'writable until the export ends' : 'read-only';
  const what = `${plain(report.disk)} of ${report.moment === null ? 'point ' : ''}${stateText(report)}, ${formatBytes(report.sizeBytes)}, ${access}`;
  return `serving ${what}; Ctrl-C ends it\n`;
}
