// SPDX-License-Identifier: Apache-2.0
import type { AccessSettings, SingleSignOnSettings } from '../../access/access-settings.ts';
import { CLIENT_SECRET_PLACE, checkSignOnUrl } from '../../access/single-sign-on.ts';
import type { AccessSettingsUpdateParams, SignOnSetParams } from '../../api/schemas/access.ts';
import type { SecretBox } from '../../config/secret-box.ts';
import { ApplianceError } from '../../core/errors.ts';

/** The settings with what was given. */
export function changedSettings(
  { approvals, sessions }: AccessSettings,
  params: AccessSettingsUpdateParams,
): Pick<AccessSettings, 'approvals' | 'sessions'> {
  return {
    approvals: {
      isRequired: params.approvals ?? approvals.isRequired,
      persons: params.approvers ?? approvals.persons,
      expireHours: params.approvalHours ?? approvals.expireHours,
    },
    sessions: {
      idleMinutes: params.sessionIdleMinutes ?? sessions.idleMinutes,
      absoluteHours: params.sessionHours ?? sessions.absoluteHours,
    },
  };
}

/** The settings of single sign-on, with the secret sealed. @throws BAD_ARGUMENT */
export function withSignOn(
  before: SingleSignOnSettings | null,
  params: SignOnSetParams,
  box: SecretBox,
): SingleSignOnSettings {
  checkSignOnUrl(params.issuer, 'issuer');
  const origin = checkSignOnUrl(params.origin, 'origin');
  const roles = (params.roles ?? []).map(({ group, role, machines = null }) => {
    if ((role === 'restorer') === (machines !== null)) return { group, role, machines };
    throw new ApplianceError('BAD_ARGUMENT', `machines belong to the role restorer, and only to it: group ${group}`);
  });
  const isSameClient = before?.issuer === params.issuer && before.clientId === params.clientId;
  const kept = isSameClient ? before.clientSecret : null;
  return {
    issuer: params.issuer,
    clientId: params.clientId,
    clientSecret: params.clientSecret === undefined ? kept : box.seal(CLIENT_SECRET_PLACE, params.clientSecret),
    origin: origin.origin,
    scopes: params.scopes ?? ['profile', 'email'],
    groupsClaim: params.groupsClaim ?? null,
    roles,
    createsUsers: params.createsUsers ?? false,
  };
}
