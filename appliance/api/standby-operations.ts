// SPDX-License-Identifier: Apache-2.0

/** What can be asked about spares that take over from machines. */

export interface StandbyParams {
  /** The machine, by name or UUID, or the spare's name. */
  readonly name: string;
}

export interface StandbyCreateParams {
  /** The machine, by name or UUID. It has a recovery point. */
  readonly name: string;
  /** The libvirt URI on which the spare is defined. */
  readonly on: string;
  /** Names of networks there and here, `OLD=NEW`, with commas between. */
  readonly network?: string;
  /** MiB. */
  readonly memory?: number;
  /** Name of the spare; default: `<name>-standby`. */
  readonly as?: string;
  /** The libvirt URI of the machine itself; the state's default when left out. */
  readonly connect?: string;
}

export interface StandbySummary {
  readonly name: string;
  readonly machine: string;
  readonly machineId: string;
  /** The libvirt URI of the original. */
  readonly original: string;
  /** The libvirt URI of the spare. */
  readonly connect: string;
  readonly networks: Readonly<Record<string, string>>;
  /** Null for as much as the original has. */
  readonly memoryMiB: number | null;
  /** The point whose definition the spare has. */
  readonly point: string | null;
  /** Where a failover stands; `docs/recovery.md`, "Standby". */
  readonly phase: 'ready' | 'fencing' | 'fenced' | 'booting' | 'running' | 'returning' | 'returned';
  /** The same, and what can be done, in a sentence. */
  readonly standing: string;
  /** When the failover began; null without one. */
  readonly since: string | null;
  /** Sentences: what of the original's definition is different, when it was just made. */
  readonly changes: readonly string[];
}

export interface StandbyTestParams extends StandbyParams {
  /** A regular expression that the guest's serial console must show. */
  readonly expect?: string;
}

export interface StandbyTestReport {
  readonly name: string;
  readonly machine: string;
  readonly point: string;
  /** From the call to the running machine. */
  readonly bootedMs: number;
  /** From the call to the guest's answer: the recovery time actual. */
  readonly answeredMs: number;
  /** How the guest showed that it is up. */
  readonly answeredBy: 'agent' | 'disk-writes';
  /** From the call to what was expected on the console; null when nothing was. */
  readonly shownMs: number | null;
}

export interface FailoverParams extends StandbyParams {
  /** What stands after the `@` of an expression: a time, `latest`, … */
  readonly at?: string;
  /** Pull the plug of the original; go on although it cannot be reached. */
  readonly force?: boolean;
}

export interface FailoverReport {
  readonly machine: string;
  readonly name: string;
  readonly connect: string;
  /** The original was reached and is off: nothing is lost. */
  readonly planned: boolean;
  readonly point: string;
  readonly moment: { readonly sequence: number; readonly time: string } | null;
  readonly bootedMs: number;
  /** Null when the guest did not show in time that it is up. */
  readonly answeredMs: number | null;
  readonly answeredBy: 'agent' | 'disk-writes' | null;
  readonly changes: readonly string[];
}

export interface FailbackParams extends StandbyParams {
  /** Pull the plug of machines that do not shut down, and of an original that runs again. */
  readonly force?: boolean;
}

export interface FailbackReport {
  readonly machine: string;
  readonly name: string;
  /** `changes`: only what the spare wrote; `everything`: all of the disks was compared. */
  readonly method: 'changes' | 'everything';
  /** Why everything was compared; empty otherwise. */
  readonly reason: string;
  readonly rounds: number;
  /** What the spare had changed, each place once, zeroes apart. */
  readonly changedBytes: number;
  /** What was written to the original's disks in all rounds, zeroes apart. */
  readonly copiedBytes: number;
  readonly zeroedBytes: number;
  /** What was read back and compared. */
  readonly verifiedBytes: number;
  /** From the end of the spare to the start of the original. */
  readonly downMs: number;
  readonly durationMs: number;
  /** The recovery point of the original as it was before. */
  readonly pointBefore: string;
}
