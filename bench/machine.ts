// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { tryRun } from '../lab/run.ts';

export interface MachineFacts {
  readonly cores: number;
  readonly model: string;
  readonly memoryGib: number;
  readonly kernel: string;
  readonly distribution: string;
  readonly node: string;
  readonly peers: readonly string[];
  /** Load average of the last minute when the benchmark began: others at work make its figures worse. */
  readonly loadAtStart: number;
}

const PEERS: readonly (readonly [command: string, ...args: string[]])[] = [
  ['qemu-img', '--version'],
  ['restic', 'version'],
  ['nbdkit', '--version'],
  ['nbdcopy', '--version'],
  ['fio', '--version'],
];

export async function machineFacts(): Promise<MachineFacts> {
  const peers: string[] = [];
  for (const [command, ...args] of PEERS) {
    const answer = await tryRun(command, args);
    peers.push(answer === undefined ? `${command} missing` : (answer.stdout.split('\n')[0]?.trim() ?? command));
  }
  return {
    cores: availableParallelism(),
    model: cpus()[0]?.model ?? 'unknown',
    memoryGib: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    distribution: /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown',
    node: process.version,
    peers,
    loadAtStart: loadavg()[0] ?? 0,
  };
}
