// SPDX-License-Identifier: Apache-2.0
import type { ApprovalEntry, ApprovalRequest } from '../../access/approvals.ts';
import { isAtLeast, type Principal } from '../../access/principal.ts';
import { isHypervisorName } from '../../config/hypervisor-record.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { destroys, neededRole, OPERATION_ROUTES, type OperationRoute } from '../operation-routes.ts';
import type { OperationName } from '../operations.ts';
import type { Means, NamedMachines } from './named-machines.ts';
import { forRestorer } from './restorer-view.ts';

export interface GuardedCall {
  readonly principal: Principal;
  readonly requestId?: string | undefined;
  /** Where it comes from. */
  readonly address?: string | undefined;
  readonly operation: OperationName;
  /** Checked against their schema already. */
  readonly params: Readonly<Record<string, unknown>>;
}

/** Where destructive acts wait for a second person (`access/approvals.ts`). */
export interface ApprovalGate {
  readonly isRequired: boolean;
  request(by: Principal, request: ApprovalRequest): Promise<ApprovalEntry>;
}

export interface GuardParts {
  readonly machines: NamedMachines;
  readonly approvals: ApprovalGate;
  /** Told of each call that was not let pass, before its error is given. */
  readonly onDenied?: (call: GuardedCall, error: ApplianceError) => Promise<void>;
}

/**
 * Decides what a principal may do, from the table of operations alone: what the table does not allow is denied. To a restorer, a
 * machine that was not named for it and one that does not exist are the same: FORBIDDEN.
 */
export class OperationGuard {
  readonly #machines: NamedMachines;
  readonly #approvals: ApprovalGate;
  readonly #onDenied: GuardParts['onDenied'];

  constructor({ machines, approvals, onDenied }: GuardParts) {
    this.#machines = machines;
    this.#approvals = approvals;
    this.#onDenied = onDenied;
  }

  /** Lets a call pass. @throws FORBIDDEN; APPROVAL_NEEDED with `details.approval`, where it was kept for a second person */
  async authorize(call: GuardedCall): Promise<void> {
    try {
      await this.#decide(call);
    } catch (error) {
      if (hasCode(error, 'FORBIDDEN', 'APPROVAL_NEEDED')) await this.#onDenied?.(call, error);
      throw error;
    }
  }

  async #decide(call: GuardedCall): Promise<void> {
    const route = OPERATION_ROUTES[call.operation];
    if (call.principal.role === 'restorer') return this.#authorizeRestorer(call, route);
    const needed = neededRole(route, call.params);
    if (!isAtLeast(call.principal.role, needed)) throw forbidden(call, `it needs the role ${needed}`);
    if (!isAtLeast(call.principal.role, 'admin') && namesUri(call.params)) {
      throw forbidden(call, 'hypervisors are named by their names, not by URIs');
    }
    if (needsSecondPerson(route, call) && this.#approvals.isRequired) throw await this.#askSecondPerson(call, route);
  }

  /** What of a result the principal may see. */
  async visible({ principal, operation }: Omit<GuardedCall, 'params'>, result: unknown): Promise<unknown> {
    if (principal.role !== 'restorer') return result;
    const { restorer } = OPERATION_ROUTES[operation];
    if (restorer === undefined || 'own' in restorer) return result;
    if ('parameter' in restorer) return forRestorer(result);
    const items = Array.isArray(result) ? (result as readonly Readonly<Record<string, unknown>>[]) : [];
    const machineOf = await this.#machines.ofItems(restorer.item);
    return forRestorer(items.filter((item) => this.#isNamed(principal, machineOf(item[restorer.item]))));
  }

  async #authorizeRestorer(call: GuardedCall, route: OperationRoute): Promise<void> {
    const { restorer } = route;
    const { principal, params } = call;
    if (restorer === undefined || destroys(route, params)) throw forbidden(call, 'a restorer may not do it');
    if ('own' in restorer) return;
    const allowed: readonly string[] = [
      ...(restorer.also ?? []),
      ...('parameter' in restorer ? [restorer.parameter] : []),
    ];
    const foreign = Object.keys(params).find((name) => params[name] !== undefined && !allowed.includes(name));
    if (foreign !== undefined) throw forbidden(call, `a restorer may not give ${foreign}`);
    if (!('parameter' in restorer)) return;
    const missing = (restorer.must ?? []).find((name) => params[name] === undefined);
    if (missing !== undefined) throw forbidden(call, `a restorer has to give ${missing}`);
    const machines = await this.#resolve(restorer.means, String(params[restorer.parameter]), principal);
    const isAllowed = machines.length > 0 && machines.every((machine) => this.#isNamed(principal, machine));
    if (!isAllowed) throw forbidden(call, 'it is none of the machines that were named for it');
  }

  /** Whatever a name could mean. What cannot be found is nothing, and so are its errors: they would tell what there is. */
  async #resolve(means: Means, name: string, principal: Principal): Promise<readonly string[]> {
    try {
      if (means === 'run' && (await this.#machines.isRunOf(name, principal))) return principal.machines ?? [];
      return await this.#machines.named(means, name);
    } catch (error) {
      if (error instanceof ApplianceError && !hasCode(error, 'ABORTED', 'INTERNAL')) return [];
      throw error;
    }
  }

  #isNamed({ machines }: Principal, machine: string | undefined): boolean {
    return machine !== undefined && (machines ?? []).includes(machine.toLowerCase());
  }

  async #askSecondPerson(call: GuardedCall, route: OperationRoute): Promise<ApplianceError> {
    const { principal, operation } = call;
    const params = await this.#machines.pinned(call.params);
    const hidden = route.secrets ?? [];
    const shown = Object.fromEntries(Object.entries(params).filter(([name]) => !hidden.includes(name)));
    const { id, value } = await this.#approvals.request(principal, { operation, params, shown });
    return new ApplianceError('APPROVAL_NEEDED', `${operation} waits for the approval of a second person`, {
      details: { approval: id, operation, expires: new Date(value.expiresAtMs).toISOString() },
      hint: `Another administrator approves it with \`understudy approval approve ${id}\`; then it is done in your name.`,
    });
  }
}

/** A URI can name a program that is run here, and a host that nobody agreed to: only administrators say one. */
function namesUri({ connect, on }: GuardedCall['params']): boolean {
  return [connect, on].some((value) => typeof value === 'string' && !isHypervisorName(value));
}

/** The appliance itself acts as its policies say, which two people agreed to; what was approved is not asked for again. */
function needsSecondPerson(route: OperationRoute, { principal, params }: GuardedCall): boolean {
  if (principal.kind === 'policy' || principal.kind === 'appliance' || principal.approvedBy !== undefined) return false;
  return route.secondPerson === true || destroys(route, params);
}

function forbidden({ principal, operation }: GuardedCall, why: string): ApplianceError {
  return new ApplianceError('FORBIDDEN', `${principal.name} (${principal.role}) may not do ${operation}: ${why}`, {
    details: { operation, role: principal.role },
  });
}
