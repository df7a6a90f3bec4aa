// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import type { Principal, Role } from '../../access/principal.ts';
import type { InvariantViolation } from '../../core/invariant.ts';
import type { ApplianceHost } from '../appliance-host.ts';
import type { OperationName } from '../operations.ts';
import type { Activity } from './activity.ts';
import type { ExportHolds } from './export-holds.ts';
import type { IdempotencyKeys } from './idempotency.ts';

/** Who may ask: everybody, everybody who is known, or those of at least a role. */
export type Need = 'public' | 'anybody' | Exclude<Role, 'restorer'>;

declare module 'fastify' {
  interface FastifyContextConfig {
    /** A route without one is not registered. */
    readonly needs?: Need;
    /** Of the route of an operation. */
    readonly operation?: OperationName;
  }
  interface FastifyRequest {
    /** Who asks; undefined for somebody unknown, whom only public routes answer. */
    principal: Principal | undefined;
  }
}

/** Who asks, and whether they may. */
export interface AccessControl {
  /** Undefined for nobody. @throws UNAUTHENTICATED for a token or session that is not valid */
  authenticate(request: FastifyRequest): Promise<Principal | undefined> | Principal | undefined;
  /** Lets a checked operation pass. @throws FORBIDDEN, and what else forbids it */
  authorize(call: OperationCall): Promise<void> | void;
  /** Told of a request that was refused before its parameters were looked at. */
  denied?(request: FastifyRequest, error: unknown): Promise<void>;
  /** What of its result is shown; everything when left out. */
  visible?(call: OperationCall, result: unknown): Promise<unknown>;
}

export interface OperationCall {
  readonly principal: Principal;
  readonly operation: OperationName;
  readonly params: Readonly<Record<string, unknown>>;
  readonly request: FastifyRequest;
}

/** What the routes of all listeners share. */
export interface ApiContext {
  readonly host: ApplianceHost;
  readonly stateDirectory: string;
  readonly logger: Logger;
  readonly activity: Activity;
  readonly holds: ExportHolds;
  readonly keys: IdempotencyKeys;
  readonly startedAt: string;
  /** An operation broke an invariant: the process has to end. */
  readonly onDefect: (violation: InvariantViolation) => void;
  /** A client asks the service to end. */
  readonly onStop: () => void;
}

/** Routes besides those of the operations. */
export type ApiExtension = (app: FastifyInstance, context: ApiContext) => void | Promise<void>;

/** What is needed to let others in. */
export interface NetworkAccess {
  readonly access: AccessControl;
  /** Logging in, and what else only those need who come over the network. */
  readonly extensions?: readonly ApiExtension[];
}
