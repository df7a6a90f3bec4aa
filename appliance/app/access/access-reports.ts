// SPDX-License-Identifier: Apache-2.0
import type { AccessSettings } from '../../access/access-settings.ts';
import { type ApiTokens, isExpired, type TokenEntry } from '../../access/api-tokens.ts';
import type { ApprovalEntry, Participant } from '../../access/approvals.ts';
import type { SessionSummary } from '../../access/sessions.ts';
import type { UserEntry, Users } from '../../access/users.ts';
import type {
  AccessSettingsReport,
  ApprovalSummary,
  SessionReport,
  TokenSummary,
  UserSummary,
} from '../../api/schemas/access.ts';

/** What the API shows of what access keeps: never a hash, a secret or anything sealed. */

export function userReport({ id, value }: UserEntry): UserSummary {
  return {
    id,
    name: value.name,
    displayName: value.displayName,
    role: value.role,
    machines: value.machines,
    disabled: value.isDisabled,
    hasPassword: value.passwordHash !== null,
    hasSecondFactor: value.totp !== null,
    identity: value.identity,
    createdAt: value.createdAt,
    passwordChangedAt: value.passwordChangedAt,
  };
}

export function sessionReport(session: SessionSummary, users: Users): SessionReport {
  return {
    id: session.id,
    user: users.records.find(session.userId)?.value.name ?? session.userId,
    createdAt: timeOf(session.createdAtMs),
    seenAt: timeOf(session.seenAtMs),
    address: session.address,
    agent: session.agent,
  };
}

export function tokenReport(
  entry: TokenEntry,
  from: { readonly users: Users; readonly tokens: ApiTokens; readonly nowMs: number },
): TokenSummary {
  const { id, value } = entry;
  const usedAtMs = from.tokens.usedAtMs(entry);
  return {
    id,
    name: value.name,
    user: value.madeBy === null ? null : (from.users.records.find(value.madeBy)?.value.name ?? value.madeBy),
    role: value.role,
    machines: value.machines,
    createdAt: value.createdAt,
    expiresAt: value.expiresAtMs === null ? null : timeOf(value.expiresAtMs),
    lastUsed: usedAtMs === null ? null : timeOf(usedAtMs),
    expired: isExpired(value, from.nowMs),
  };
}

export function approvalReport({ id, value }: ApprovalEntry): ApprovalSummary {
  return {
    id,
    operation: value.operation,
    params: value.shown,
    state: value.state,
    requestedBy: shown(value.requestedBy),
    expiresAt: timeOf(value.expiresAtMs),
    approvedBy: value.approvedBy.map(shown),
    deniedBy: value.deniedBy === null ? null : shown(value.deniedBy),
    brokenGlass: value.brokenGlass,
    decidedAt: value.decidedAt,
    error: value.errorCode,
  };
}

export function settingsReport({ approvals, sessions, singleSignOn }: AccessSettings): AccessSettingsReport {
  return {
    approvals: approvals.isRequired,
    approvers: approvals.persons,
    approvalHours: approvals.expireHours,
    sessionIdleMinutes: sessions.idleMinutes,
    sessionHours: sessions.absoluteHours,
    singleSignOn:
      singleSignOn === null
        ? null
        : {
            issuer: singleSignOn.issuer,
            clientId: singleSignOn.clientId,
            hasClientSecret: singleSignOn.clientSecret !== null,
            origin: singleSignOn.origin,
            scopes: singleSignOn.scopes,
            groupsClaim: singleSignOn.groupsClaim,
            roles: singleSignOn.roles,
            createsUsers: singleSignOn.createsUsers,
          },
  };
}

export function timeOf(timeMs: number): string {
  return new Date(timeMs).toISOString();
}

function shown({ name, at }: Participant): { readonly name: string; readonly at: string } {
  return { name, at };
}
