// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

export interface ProcessResult {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A process whose output can be waited for while it runs; killed, if need be, when it is disposed. */
export class LiveProcess implements AsyncDisposable {
  stdout = '';
  stderr = '';
  readonly result: Promise<ProcessResult>;
  readonly child: ChildProcess;
  private readonly watchers = new Set<() => void>();
  private hasEnded = false;

  constructor(command: readonly [string, ...string[]], env: NodeJS.ProcessEnv = process.env) {
    const [program, ...args] = command;
    this.child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
    this.collect('stdout');
    this.collect('stderr');
    this.result = once(this.child, 'close').then(() => {
      this.hasEnded = true;
      this.notify();
      const { exitCode, signalCode } = this.child;
      return { exitCode, signal: signalCode, stdout: this.stdout, stderr: this.stderr };
    });
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error('the process could not be started');
    return this.child.pid;
  }

  kill(signal: NodeJS.Signals = 'SIGTERM'): void {
    this.child.kill(signal);
  }

  /** Settles when the output fulfils the condition; fails when the process ends before. */
  async until(condition: (output: LiveProcess) => boolean): Promise<void> {
    while (!condition(this)) {
      if (this.hasEnded) throw new Error(`ended with ${this.child.exitCode}:\n${this.stdout}\n${this.stderr}`);
      await new Promise<void>((resolve) => {
        this.watchers.add(resolve);
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.hasEnded) this.kill('SIGKILL');
    await this.result;
  }

  private collect(name: 'stdout' | 'stderr'): void {
    this.child[name]?.setEncoding('utf8').on('data', (text: string) => {
      this[name] += text;
      this.notify();
    });
  }

  private notify(): void {
    const watchers = [...this.watchers];
    this.watchers.clear();
    for (const watcher of watchers) watcher();
  }
}
