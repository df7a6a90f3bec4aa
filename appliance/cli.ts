// SPDX-License-Identifier: Apache-2.0
import { homedir } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { CliDependencies } from './cli/dependencies.ts';
import { processIo } from './cli/io.ts';
import { runCli } from './cli/run-cli.ts';
import { systemErrorCode } from './core/errors.ts';

/** What is still open this long after the command has ended does not keep the process. */
const LINGER_LIMIT_MS = 5_000;

/** The appliance is loaded when a command opens it: help, and commands that the service does, start without it. */
const dependencies: CliDependencies = {
  openAppliance: async (options) => (await import('./main.ts')).openAppliance(options),
  initialize: async (options) => (await import('./main.ts')).initialize(options),
  selfCommand: [process.execPath, ...process.execArgv, fileURLToPath(import.meta.url)],
};

// The reader of a pipe may go away early (`understudy points | head -1`).
process.stdout.on('error', (error) => {
  if (systemErrorCode(error) !== 'EPIPE') throw error;
});

const exitCode: number = await runCli(process.argv.slice(2), processIo(homedir()), dependencies);
process.exitCode = exitCode;
setTimeout(() => process.exit(exitCode), LINGER_LIMIT_MS).unref();
