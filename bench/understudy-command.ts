// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import type { BackupReport } from '../appliance/api/operations.ts';
import { measureProcess, type ProcessFigures } from './measured-process.ts';
import { ServerProcess } from './server-process.ts';
import { ROOT, type Workspace } from './workspace.ts';

/** Name under which the benchmark keeps its disk. */
export const SOURCE_NAME = 'bench';

const PROBE: string = join(ROOT, 'bench', 'probe.ts');
const CLI: string = join(ROOT, 'appliance', 'cli.ts');
export const SUBJECT: string = join(ROOT, 'bench', 'subject.ts');

/** Our side: every command is a process of its own, with the probe loaded; its start is part of its time. */
export class UnderstudyCommand {
  readonly #workspace: Workspace;

  constructor(workspace: Workspace) {
    this.#workspace = workspace;
  }

  /** An encrypted repository in a new state directory, as `understudy init` makes it. */
  async init(stateDirectory: string): Promise<void> {
    await this.#run(['init', '--state', stateDirectory, '--json']);
  }

  async backup(stateDirectory: string, uri: string): Promise<ProcessFigures & { readonly report: BackupReport }> {
    const figures = await this.#run(['backup', uri, '--name', SOURCE_NAME, '--state', stateDirectory, '--json']);
    return { ...figures, report: JSON.parse(figures.stdout) as BackupReport };
  }

  restore(stateDirectory: string, path: string): Promise<ProcessFigures> {
    const point = `${SOURCE_NAME}@latest`;
    return this.#run(['restore', point, '--to', path, '--format', 'raw', '--state', stateDirectory, '--json']);
  }

  /** The newest point on a socket of its own; caches are empty at the start. */
  exportPoint(stateDirectory: string, socketPath: string): Promise<ServerProcess> {
    const args = ['export', `${SOURCE_NAME}@latest`, '--socket', socketPath, '--state', stateDirectory, '--json'];
    return ServerProcess.start(process.execPath, [...probed(CLI), ...args], {
      socketPath,
      stopSignal: 'SIGINT',
      probeDirectory: this.#workspace.probeDirectory,
    });
  }

  /** An operation of `subject.ts`. */
  subject(args: readonly string[]): Promise<ProcessFigures> {
    return measureProcess(process.execPath, [...probed(SUBJECT), ...args], this.#options);
  }

  #run(args: readonly string[]): Promise<ProcessFigures> {
    return measureProcess(process.execPath, [...probed(CLI), ...args], this.#options);
  }

  get #options(): { readonly probeDirectory: string } {
    return { probeDirectory: this.#workspace.probeDirectory };
  }
}

/** Arguments of Node that run a file with the probe in front of it. */
export function probed(file: string): string[] {
  return ['--import', PROBE, file];
}
