// SPDX-License-Identifier: Apache-2.0
import { PassThrough } from 'node:stream';
import type { CliDependencies, InitOptions } from '../../appliance/cli/dependencies.ts';
import type { CliIo } from '../../appliance/cli/io.ts';
import { runCli } from '../../appliance/cli/run-cli.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { FakeAppliance, type FakeBehaviour } from './fake-appliance.ts';

export interface CliTestOptions {
  readonly behaviour?: FakeBehaviour;
  readonly env?: Readonly<Record<string, string>>;
  readonly isTerminal?: boolean;
  /** Typed on standard input once a prompt stands on standard error. */
  readonly answer?: string;
  readonly dependencies?: Partial<CliDependencies>;
}

export interface CliTestResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly appliance: FakeAppliance;
  readonly initialized: readonly InitOptions[];
}

/** A command line in this process, over a fake appliance and streams that are (not) terminals. */
export class CliTest {
  readonly appliance: FakeAppliance;
  readonly initialized: InitOptions[] = [];
  readonly exits: number[] = [];
  stdout = '';
  stderr = '';
  private readonly options: CliTestOptions;
  private readonly listeners = new Set<(signal: string) => void>();
  private readonly watchers = new Set<() => void>();

  constructor(options: CliTestOptions = {}) {
    this.options = options;
    this.appliance = new FakeAppliance(options.behaviour);
  }

  async run(...argv: readonly string[]): Promise<CliTestResult> {
    const exitCode = await runCli(argv, this.io(), this.dependencies());
    const { stdout, stderr, appliance, initialized } = this;
    return { exitCode, stdout, stderr, appliance, initialized };
  }

  signal(name: string): void {
    for (const listener of this.listeners) listener(name);
  }

  /** Settles when the output so far fulfils the condition. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      await new Promise<void>((resolve) => {
        this.watchers.add(resolve);
      });
    }
  }

  private io(): CliIo {
    const { isTerminal = false, env = {} } = this.options;
    const stdin = Object.assign(new PassThrough(), { isTTY: isTerminal });
    this.answerOn(stdin);
    return {
      stdin,
      stdout: this.capture('stdout', isTerminal),
      stderr: this.capture('stderr', isTerminal),
      env,
      workingDirectory: '/work/here',
      homeDirectory: '/home/operator',
      isRoot: false,
      clock: systemClock,
      onSignal: (listener) => {
        this.listeners.add(listener);
        return { [Symbol.dispose]: () => void this.listeners.delete(listener) };
      },
      exit: (code) => void this.exits.push(code),
    };
  }

  private answerOn(stdin: PassThrough): void {
    const { answer } = this.options;
    if (answer === undefined) return;
    void this.until(() => this.stderr.endsWith(': ') || this.stderr.includes(': \u001b')).then(() =>
      stdin.write(answer),
    );
  }

  private capture(name: 'stdout' | 'stderr', isTerminal: boolean): CliIo['stdout'] {
    const stream = Object.assign(new PassThrough(), { isTTY: isTerminal, columns: 80 });
    stream.setEncoding('utf8').on('data', (text: string) => {
      this[name] += text;
      const watchers = [...this.watchers];
      this.watchers.clear();
      for (const watcher of watchers) watcher();
    });
    return stream;
  }

  private dependencies(): CliDependencies {
    return {
      openAppliance: async () => this.appliance.asAppliance(),
      initialize: async (options) => {
        this.initialized.push(options);
        return { repository: '/mnt/backup', repositoryId: 'id', recoveryKey: 'AAAA-BBBB' };
      },
      selfCommand: ['false'],
      ...this.options.dependencies,
    };
  }
}

export async function runCommand(argv: readonly string[], options: CliTestOptions = {}): Promise<CliTestResult> {
  return new CliTest(options).run(...argv);
}
