// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { localPrincipal } from '../appliance/access/principal.ts';
import { LocalEndpoint } from '../appliance/api/client/endpoint.ts';
import { findService } from '../appliance/api/client/find-service.ts';
import { type RemoteAppliance, remoteAppliance } from '../appliance/api/client/remote-appliance.ts';
import type { OperationContext } from '../appliance/api/operations.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { childEnvironment, readProbe } from './measured-process.ts';
import type { ProbeReport } from './probe.ts';
import { probed } from './understudy-command.ts';
import { ROOT } from './workspace.ts';

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 30_000;
const POLL_MS = 20;
const LOG_TAIL_LENGTH = 4000;

/** For operations that nobody follows or interrupts. */
export const UNATTENDED: OperationContext = {
  principal: localPrincipal(),
  signal: new AbortController().signal,
  onProgress: () => undefined,
  onNotice: () => undefined,
};

/** `understudy serve`, with the probe, and a client of it. */
export class ServiceProcess implements AsyncDisposable {
  readonly appliance: RemoteAppliance;
  readonly #child: ChildProcess;
  readonly #probeDirectory: string;
  #log = '';

  private constructor(child: ChildProcess, stateDirectory: string, probeDirectory: string) {
    this.#child = child;
    this.appliance = remoteAppliance(new LocalEndpoint(stateDirectory));
    this.#probeDirectory = probeDirectory;
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#log = (this.#log + text).slice(-LOG_TAIL_LENGTH);
    });
  }

  /** Settles when it answers. @throws ApplianceError SERVICE_UNREACHABLE, TIMED_OUT */
  static async start(
    stateDirectory: string,
    options: { readonly probeDirectory: string; readonly connect?: string },
  ): Promise<ServiceProcess> {
    const connect = options.connect === undefined ? [] : ['--connect', options.connect];
    const args = [...probed(join(ROOT, 'appliance', 'cli.ts')), 'serve', '--state', stateDirectory, ...connect];
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: childEnvironment({ probeDirectory: options.probeDirectory }),
    });
    const service = new ServiceProcess(child, stateDirectory, options.probeDirectory);
    const deadline = systemClock.elapsedMs() + START_TIMEOUT_MS;
    while ((await findService(stateDirectory)) === undefined) {
      if (child.exitCode !== null) {
        throw new ApplianceError('SERVICE_UNREACHABLE', `the service ended at its start: ${service.#log}`);
      }
      if (systemClock.elapsedMs() > deadline) {
        await service.close();
        throw new ApplianceError('TIMED_OUT', 'the service does not answer');
      }
      await delay(POLL_MS);
    }
    return service;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async close(): Promise<ProbeReport | undefined> {
    await this.appliance[Symbol.asyncDispose]();
    await this.#end('SIGTERM');
    return readProbe(this.#probeDirectory, this.#child.pid);
  }

  /** Ends it at once, as a crash would. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
    await this.appliance[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill(signal);
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(timer);
  }
}
