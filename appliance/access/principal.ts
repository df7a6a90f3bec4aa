// SPDX-License-Identifier: Apache-2.0

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
}
