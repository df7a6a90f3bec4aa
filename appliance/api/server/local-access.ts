// SPDX-License-Identifier: Apache-2.0
import { localPrincipal } from '../../access/principal.ts';
import type { OperationGuard } from '../guard/operation-guard.ts';
import type { AccessControl } from './api-context.ts';

/** Over the unix socket: who may open it owns the appliance. Destructive acts wait for a second person nevertheless, where that is asked for. */
export function localAccess(guard: OperationGuard): AccessControl {
  const principal = localPrincipal();
  return {
    authenticate: () => principal,
    authorize: (call) => guard.authorize({ ...call, requestId: call.request.id }),
  };
}
