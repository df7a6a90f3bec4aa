// SPDX-License-Identifier: Apache-2.0
import { userInfo } from 'node:os';
import { systemErrorCode } from '../core/errors.ts';

/** What somebody may do. `restorer` may do little, and only with the machines that were named for it. */
export const ROLES = ['restorer', 'viewer', 'operator', 'admin'] as const;

export type Role = (typeof ROLES)[number];

/**
 * On whose behalf something is done. `local` is whoever may open the state directory: the owner of the appliance.
 * `policy` and `appliance` are the appliance itself, by a policy and by its own housekeeping.
 */
export interface Principal {
  readonly kind: 'local' | 'user' | 'token' | 'policy' | 'appliance';
  /** Of the user, the token or the policy; the system user's name for `local`. */
  readonly id: string;
  /** For people. */
  readonly name: string;
  readonly role: Role;
  /** Ids of the machines that a restorer is let at; null for every other role: all. */
  readonly machines: readonly string[] | null;
  /** Of a token: the id of the user who made it; null when the owner of the appliance did. */
  readonly madeBy?: string | null;
  /** Names of those who approved what is done now; see `approvals.ts`. */
  readonly approvedBy?: readonly string[];
}

/** Which person stands behind a principal: the same for a user and for the tokens that the user made. */
export function personOf({ kind, id, madeBy }: Principal): string {
  if (kind === 'user') return id;
  if (kind === 'token') return madeBy ?? 'local';
  return kind;
}

/** The role that may do less. */
export function lesserRole(one: Role, other: Role): Role {
  return ROLES.indexOf(one) < ROLES.indexOf(other) ? one : other;
}

/** Whether a role may do all that another one may. */
export function isAtLeast(role: Role, needed: Role): boolean {
  return ROLES.indexOf(role) >= ROLES.indexOf(needed);
}

/** Who works in this process, or through the unix socket of the state directory. */
export function localPrincipal(): Principal {
  const name = userName();
  return { kind: 'local', id: name, name, role: 'admin', machines: null };
}

/** The appliance's own housekeeping. */
export const APPLIANCE_PRINCIPAL: Principal = {
  kind: 'appliance',
  id: 'appliance',
  name: 'the appliance',
  role: 'admin',
  machines: null,
};

/** A user that the system has no name for is known by its number. */
function userName(): string {
  try {
    return userInfo().username;
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
    return String(process.getuid?.() ?? '');
  }
}
