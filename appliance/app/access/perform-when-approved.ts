// SPDX-License-Identifier: Apache-2.0
import type { Access } from '../../access/access.ts';
import type { ApprovedRequest } from '../../access/approvals.ts';
import type { Principal } from '../../access/principal.ts';
import { isOperationName, OPERATION_ROUTES } from '../../api/operation-routes.ts';
import type { OperationContext, OperationName } from '../../api/operations.ts';
import { ApplianceError } from '../../core/errors.ts';

/** Does an operation on behalf of `context.principal`; the parameters were checked when it was asked for. */
export type PerformApproved = (call: {
  readonly operation: OperationName;
  readonly params: Readonly<Record<string, unknown>>;
  readonly context: OperationContext;
}) => Promise<unknown>;

interface Decision {
  readonly id: string;
  readonly breakGlass: string | undefined;
  /** Of the one who approves. */
  readonly context: OperationContext;
}

/**
 * Agrees to a request and, when enough people have, does it in the name of the one who asked: with that person's role as it
 * is now. Settles with the result, or null while more have to agree. How it ended is kept with the request.
 */
export async function performWhenApproved(
  { access, perform }: { readonly access: Access; readonly perform: PerformApproved },
  { id, breakGlass, context }: Decision,
): Promise<unknown> {
  const approved = await access.approvals.approve(id, context.principal, breakGlass);
  if (approved === undefined) return null;
  try {
    const { operation, principal } = whoDoesWhat(access, approved);
    const params = approved.params as Readonly<Record<string, unknown>>;
    const result = await perform({ operation, params, context: { ...context, principal } });
    await access.approvals.finish(id, null);
    return result ?? null;
  } catch (error) {
    await access.approvals.finish(id, error instanceof ApplianceError ? error.code : 'INTERNAL');
    throw error;
  }
}

function whoDoesWhat(
  access: Access,
  { operation, requestedBy, approvedBy }: ApprovedRequest,
): { readonly operation: OperationName; readonly principal: Principal } {
  if (!isOperationName(operation))
    throw new ApplianceError('NOT_SUPPORTED', `there is no operation ${operation} any more`);
  const principal = access.principalOf(requestedBy);
  if (principal?.role !== 'admin') {
    const { needs } = OPERATION_ROUTES[operation];
    throw new ApplianceError('FORBIDDEN', `${requestedBy.name} is no administrator any more`, { details: { needs } });
  }
  return { operation, principal: { ...principal, approvedBy } };
}
