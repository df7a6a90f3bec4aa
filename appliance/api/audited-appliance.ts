// SPDX-License-Identifier: Apache-2.0
import type { Principal } from '../access/principal.ts';
import type { AuditEvent, AuditWho } from '../audit/entry.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { isOperationName, neededRole, OPERATION_ROUTES, withoutSecrets } from './operation-routes.ts';
import type { Appliance, OperationContext, OperationName } from './operations.ts';

/** Where entries go; an `AuditLog` is one. */
export interface AuditRecorder {
  record(event: AuditEvent): Promise<{ readonly sequence: number }>;
}

/** The parameters that may say what an operation is about, the most exact first. */
const TARGET_PARAMETERS = ['point', 'target', 'machine', 'name', 'user', 'id'] as const;

/** They free space, and must work when there is none for their entry. */
const FREES_SPACE: ReadonlySet<OperationName> = new Set(['delete', 'retentionApply', 'gc']);

type Perform = (params: unknown, context: OperationContext) => Promise<unknown>;

/**
 * The same appliance, with each change and run recorded: before it begins, and when it has ended. Reads are recorded when they
 * were denied. What an administrator is needed for is not done when it cannot be recorded, except for what frees space on a full
 * disk. What an operator may do goes on, and says so: nobody waits for a machine because the log has no room. The result of something
 * that was done is given even when its end cannot be recorded: the log then shows it as unfinished.
 */
export function auditedAppliance<A extends Appliance>(appliance: A, recorder: AuditRecorder): A {
  const audited = new Map<string, Perform>();
  return new Proxy(appliance, {
    get(target, property) {
      // The object itself as `this`: what it keeps private is not reachable through a proxy.
      const member: unknown = Reflect.get(target, property, target);
      if (typeof member !== 'function') return member;
      if (typeof property !== 'string' || !isOperationName(property)) return member.bind(target) as unknown;
      const perform = audited.get(property) ?? auditedOperation(property, member.bind(target) as Perform, recorder);
      audited.set(property, perform);
      return perform;
    },
  });
}

function auditedOperation(name: OperationName, perform: Perform, recorder: AuditRecorder): Perform {
  if (OPERATION_ROUTES[name].kind === 'read') return auditedRead(name, perform, recorder);
  return async (params, context) => {
    const event = eventOf(name, params, context);
    const start = await recordStart(event, recorder, context);
    const end = async (outcome: AuditEvent['outcome'], code: string | null): Promise<void> => {
      if (start === undefined) return;
      try {
        await recorder.record({ ...event, phase: 'ended', start, params: {}, outcome, code });
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        context.onNotice(`the end of ${name} is not in the audit log: ${reason}`);
      }
    };
    let result: unknown;
    try {
      result = await perform(params, context);
    } catch (error) {
      const { outcome, code } = outcomeOf(error);
      await end(outcome, code);
      throw error;
    }
    await end('ok', null);
    return result;
  };
}

function auditedRead(name: OperationName, perform: Perform, recorder: AuditRecorder): Perform {
  return async (params, context) => {
    try {
      return await perform(params, context);
    } catch (error) {
      const { outcome, code } = outcomeOf(error);
      if (outcome === 'denied') {
        await recorder.record({ ...eventOf(name, params, context), phase: 'event', outcome, code });
      }
      throw error;
    }
  };
}

/** The sequence of the start; undefined for what goes on without its entry. */
async function recordStart(
  event: AuditEvent,
  recorder: AuditRecorder,
  context: OperationContext,
): Promise<number | undefined> {
  try {
    return (await recorder.record(event)).sequence;
  } catch (error) {
    if (!goesUnrecorded(event, error)) throw error;
    context.onNotice(`${event.action} is not in the audit log: ${error.message}`);
    return undefined;
  }
}

function goesUnrecorded({ action, params }: AuditEvent, error: unknown): error is ApplianceError {
  if (!hasCode(error, 'NO_SPACE', 'IO_FAILED') || !isOperationName(action)) return false;
  if (hasCode(error, 'NO_SPACE') && FREES_SPACE.has(action)) return true;
  return neededRole(OPERATION_ROUTES[action], params) !== 'admin';
}

/** What is recorded of an error: its code, and whether somebody was kept from doing something. */
export function outcomeOf(error: unknown): { readonly outcome: 'failed' | 'denied'; readonly code: string } {
  const isDenied = hasCode(error, 'FORBIDDEN', 'UNAUTHENTICATED', 'APPROVAL_NEEDED');
  const code = error instanceof ApplianceError ? error.code : 'INTERNAL';
  return { outcome: isDenied ? 'denied' : 'failed', code };
}

/** What is recorded of a call that did not get as far as its operation. */
export function deniedEvent(
  call: Omit<Caller, 'principal'> & {
    readonly principal: Principal;
    readonly operation: OperationName;
    readonly params: Readonly<Record<string, unknown>>;
  },
  error: unknown,
): AuditEvent {
  return { ...eventOf(call.operation, call.params, call), phase: 'event', ...outcomeOf(error) };
}

interface Caller {
  readonly principal: Principal;
  readonly requestId?: string | undefined;
  readonly address?: string | undefined;
}

function eventOf(name: OperationName, params: unknown, context: Caller): AuditEvent {
  const members = params as Readonly<Record<string, unknown>>;
  const target = TARGET_PARAMETERS.map((member) => members[member]).find((value) => typeof value === 'string');
  const { principal, requestId, address } = context;
  return {
    phase: 'started',
    action: name,
    who: whoOf(principal),
    from: address ?? null,
    requestId: requestId ?? null,
    target: typeof target === 'string' ? target : null,
    params: withoutSecrets(name, members),
    outcome: null,
    code: null,
    approval: principal?.approvedBy?.join(', ') ?? null,
  };
}

/** Who is recorded; in this process, without anything else said, it is the owner of the state directory. */
function whoOf(principal: OperationContext['principal']): AuditWho {
  if (principal === undefined) return { kind: 'local', id: 'local', name: 'local', role: 'admin' };
  const { kind, id, name, role } = principal;
  return { kind, id, name, role };
}
