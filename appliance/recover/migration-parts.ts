// SPDX-License-Identifier: Apache-2.0
import type { RecoverParts } from './context.ts';
import type { PendingNames } from './pending-names.ts';
import type { SessionDisks } from './session-disks.ts';
import type { SessionMachines } from './session-machines.ts';
import type { SessionRegistry } from './session-registry.ts';
import type { SessionStore } from './session-store.ts';

/** What migrations work with. */
export interface MigrationParts {
  readonly parts: RecoverParts;
  readonly store: SessionStore;
  readonly registry: SessionRegistry;
  readonly disks: SessionDisks;
  readonly machines: SessionMachines;
  readonly names: PendingNames;
}
