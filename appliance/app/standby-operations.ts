// SPDX-License-Identifier: Apache-2.0
import type { Appliance } from '../api/operations.ts';
import type { Core } from './core.ts';
import { createStandby } from './standby-ports.ts';

/** What can be asked about spares. */
export type StandbyOperations = Pick<
  Appliance,
  'standbyCreate' | 'standbyList' | 'standbyRemove' | 'standbyTest' | 'failover' | 'failoverUndo' | 'failback'
>;

export function standbyOperations(
  open: () => Promise<Core>,
  uriOf: (params: { readonly connect?: string | undefined }) => string,
): StandbyOperations {
  return {
    standbyCreate: async (params) => createStandby(await open(), params, uriOf(params)),
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
