// SPDX-License-Identifier: Apache-2.0

/** What can be asked about spares that take over from machines; the answers are `recover`'s own. */
export type { FailbackReport } from '../recover/standby/failback.ts';
export type { FailoverReport } from '../recover/standby/failover.ts';
export type { StandbySummary, StandbyTestReport } from '../recover/standby/standby-service.ts';

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

export interface StandbyTestParams extends StandbyParams {
  /** A regular expression that the guest's serial console must show. */
  readonly expect?: string;
}

export interface FailoverParams extends StandbyParams {
  /** What stands after the `@` of an expression: a time, `latest`, … */
  readonly at?: string;
  /** Pull the plug of the original; go on although it cannot be reached. */
  readonly force?: boolean;
}

export interface FailbackParams extends StandbyParams {
  /** Pull the plug of machines that do not shut down, and of an original that runs again. */
  readonly force?: boolean;
}
