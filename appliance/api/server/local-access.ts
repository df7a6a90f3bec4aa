// SPDX-License-Identifier: Apache-2.0
import { localPrincipal } from '../../access/principal.ts';
import type { AccessControl } from './api-context.ts';

/** Over the unix socket: who may open it owns the appliance. */
export function localAccess(): AccessControl {
  const principal = localPrincipal();
  return { authenticate: () => principal, authorize: () => undefined };
}
