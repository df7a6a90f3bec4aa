// SPDX-License-Identifier: Apache-2.0
import type { Access } from '../../access/access.ts';
import type { AccessOperations } from '../../api/access-operations.ts';
import { type ApplianceHost, performOperation } from '../../api/appliance-host.ts';
import { type AuditRecorder, deniedEvent } from '../../api/audited-appliance.ts';
import { NamedMachines } from '../../api/guard/named-machines.ts';
import { OperationGuard } from '../../api/guard/operation-guard.ts';
import { networkAccess } from '../../api/server/login/network-access.ts';
import { compose } from '../compose.ts';
import { AccessAppliance } from './access-appliance.ts';

/**
 * An appliance with the operations on who may do what, and with the guard that decides it. `whole` is the appliance that does what was
 * approved: this one, with whatever is put around it. Who was denied something stands in the audit log.
 */
export function withAccess(
  local: Omit<ApplianceHost, keyof AccessOperations | 'access' | 'guard'>,
  access: Access,
  parts: { readonly whole: () => ApplianceHost; readonly recorder: AuditRecorder },
): ApplianceHost {
  const operations: AccessOperations = new AccessAppliance(access, (call) => performOperation(parts.whole(), call));
  const guard = new OperationGuard({
    machines: new NamedMachines(() => local),
    approvals: access.approvals,
    onDenied: async (call, error) => {
      await parts.recorder.record(deniedEvent(call, error));
    },
  });
  const network = networkAccess({ access, guard, recorder: parts.recorder });
  return compose(compose(local, operations), { access, guard, networkAccess: network });
}
