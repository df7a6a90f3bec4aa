// SPDX-License-Identifier: Apache-2.0
import type { Principal } from '../../access/principal.ts';
import type { OperationName, OperationParams, OperationResult } from '../../api/operations.ts';
import type { RunService } from '../../api/runs/run-service.ts';
import { decodeError } from '../../api/wire-error.ts';
import { ApplianceError } from '../../core/errors.ts';
import type { Policy } from '../../protect/policy/policy.ts';

/** On whose behalf a policy's work is done: it was an administrator's word. */
export function policyPrincipal({ name }: Policy): Principal {
  return { kind: 'policy', id: name, name: `policy ${name}`, role: 'admin', machines: null };
}

/** What a run of a policy is, and who watches it. */
export interface PolicyRun<Name extends OperationName> {
  readonly operation: Name;
  readonly params: OperationParams<Name>;
  readonly machineId: string;
  readonly principal: Principal;
  readonly signal: AbortSignal;
  readonly onProgress?: () => void;
}

/**
 * Does an operation as a run that everybody sees, and waits for its end. @throws ApplianceError what the operation throws;
 * ABORTED when somebody cancelled it, INTERRUPTED when the service stops
 */
export async function performRun<Name extends OperationName>(
  runs: RunService,
  { operation, params, machineId, principal, signal, onProgress }: PolicyRun<Name>,
): Promise<OperationResult<Name>> {
  if (signal.aborted) throw new ApplianceError('ABORTED', `${operation} was interrupted`);
  if (runs.isStopping) throw await atTheEnd(operation, signal);
  const run = runs.start({ operation, params: { ...params }, principal, machineId });
  const cancel = (): void => run.cancel('the policy does not want it any more');
  signal.addEventListener('abort', cancel, { once: true });
  using _following = run.follow(() => onProgress?.());
  try {
    await run.ended;
  } finally {
    signal.removeEventListener('abort', cancel);
  }
  const { error, result } = run.report();
  if (error?.code === 'ABORTED' && runs.isStopping) throw await atTheEnd(operation, signal);
  if (error !== null) throw decodeError(error);
  return result as OperationResult<Name>;
}

/** When the policies end, too: until then nobody need try again. */
async function atTheEnd(operation: OperationName, signal: AbortSignal): Promise<ApplianceError> {
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  return new ApplianceError('INTERRUPTED', `the appliance ended before ${operation} had`);
}
