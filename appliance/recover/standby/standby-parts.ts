// SPDX-License-Identifier: Apache-2.0
import type { PointId } from '../../core/ids.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import type { RecoverableState } from '../../volume/recoverable-state.ts';
import type { BootedMachines } from '../booted-machines.ts';
import type { RecoverContext, RecoverParts } from '../context.ts';
import type { Standby, StandbyStore } from './standby-record.ts';

/** What standby needs of other parts of the appliance. */
export interface StandbyPorts {
  /** Takes a recovery point of the original. Errors are those of a backup. */
  backup(standby: Standby, context: RecoverContext): Promise<RecoveryPoint>;
  /** What an expression like `NAME@latest` means now. @throws ApplianceError POINT_NOT_FOUND, MACHINE_NOT_FOUND, MOMENT_IN_GAP, … */
  stateOf(expression: string): Promise<RecoverableState>;
  /** @throws ApplianceError POINT_NOT_FOUND */
  pointOf(id: PointId): Promise<RecoveryPoint>;
}

/** What the steps of failover and failback work with. */
export interface StandbyParts {
  readonly parts: RecoverParts;
  readonly machines: BootedMachines;
  readonly store: StandbyStore;
  readonly ports: StandbyPorts;
}
