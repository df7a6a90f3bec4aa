// SPDX-License-Identifier: Apache-2.0
import type { Appliance } from '../api/operations.ts';
import type { Core } from './core.ts';
import type { Hypervisors } from './hypervisors.ts';
import { createStandby } from './standby-ports.ts';

/** What can be asked about spares. */
export type StandbyOperations = Pick<
  Appliance,
  'standbyCreate' | 'standbyList' | 'standbyRemove' | 'standbyTest' | 'failover' | 'failoverUndo' | 'failback'
>;

export function standbyOperations(open: () => Promise<Core>, hypervisors: () => Hypervisors): StandbyOperations {
  return {
    standbyCreate: async (params) => {
      const core = await open();
      const known = hypervisors();
      const original = await known.uriWith(params.name, params.connect, (uri) => core.connections.get(uri));
      return createStandby(core, { ...params, on: known.uri(params.on) }, original);
    },
    standbyList: async () => (await open()).standbys.list(),
    standbyRemove: async ({ name }) => (await open()).standbys.remove(name),
    standbyTest: async (params, context) => (await open()).standbys.test(params, context),
    failover: async ({ name, at, force }, context) => {
      const request = { ...(at === undefined ? {} : { at }), isForced: force ?? false };
      return (await open()).standbys.failover(name, request, context);
    },
    failoverUndo: async ({ name }) => (await open()).standbys.undo(name),
    failback: async ({ name, force }, context) =>
      (await open()).standbys.failback(name, { isForced: force ?? false }, context),
  };
}
