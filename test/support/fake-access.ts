// SPDX-License-Identifier: Apache-2.0
import type { AccessOperationName, AccessOperations } from '../../appliance/api/access-operations.ts';
import type { OperationContext, OperationResult } from '../../appliance/api/operations.ts';
import type {
  AccessSettingsReport,
  ApprovalSummary,
  InvitationReport,
  SessionReport,
  TokenSummary,
  UserSummary,
} from '../../appliance/api/schemas/access.ts';

const AT = '2026-11-22T01:02:03.000Z';
const user: UserSummary = {
  id: '3f2a91c04b7d8e11',
  name: 'ann',
  displayName: 'Ann',
  role: 'admin',
  machines: null,
  disabled: false,
  hasPassword: true,
  hasSecondFactor: true,
  identity: null,
  createdAt: AT,
  passwordChangedAt: AT,
};
const session: SessionReport = {
  id: '00112233445566ff',
  user: 'ann',
  createdAt: AT,
  seenAt: AT,
  address: '192.0.2.1',
  agent: 'browser',
};
const token: TokenSummary = {
  id: '9a8b7c6d5e4f3a2b',
  name: 'prometheus',
  user: 'ann',
  role: 'viewer',
  machines: null,
  createdAt: AT,
  expiresAt: null,
  lastUsed: AT,
  expired: false,
};
const approval: ApprovalSummary = {
  id: '1122334455667788',
  operation: 'delete',
  params: { point: '3f2a91c04b7d8e11' },
  state: 'done',
  requestedBy: { name: 'bob', at: AT },
  expiresAt: '2026-11-25T01:02:03.000Z',
  approvedBy: [{ name: 'ann', at: AT }],
  deniedBy: null,
  brokenGlass: null,
  decidedAt: AT,
  error: null,
};
const settings: AccessSettingsReport = {
  approvals: false,
  approvers: 2,
  approvalHours: 72,
  sessionIdleMinutes: 60,
  sessionHours: 168,
  singleSignOn: null,
};
const invitation: InvitationReport = { token: 'aGlkZGVu'.repeat(5), expiresAt: '2026-11-25T01:02:03.000Z' };

export const fakeAccessResults: { readonly [Name in AccessOperationName]: OperationResult<Name> } = {
  whoami: { kind: 'local', id: '0', name: 'root', role: 'admin', machines: null, hasSecondFactor: false },
  passwordChange: user,
  secondFactorEnrol: { secret: 'ABCDEFGH', uri: 'otpauth://totp/Understudy:ann?secret=ABCDEFGH' },
  secondFactorConfirm: { codes: ['abcd-efgh-ijkl-mnop'] },
  secondFactorRemove: { ...user, hasSecondFactor: false },
  userList: [user, { ...user, name: 'rex', role: 'restorer', machines: ['a', 'b'], hasSecondFactor: false }],
  userShow: user,
  userCreate: { user, invitation },
  userUpdate: user,
  userDelete: user,
  userInvite: invitation,
  userSecondFactorReset: { ...user, hasSecondFactor: false },
  sessionList: [session],
  sessionEnd: {},
  tokenList: [token],
  tokenCreate: { token: `ust_${'0'.repeat(88)}`, summary: token },
  tokenRevoke: token,
  approvalList: [{ ...approval, state: 'pending', approvedBy: [], decidedAt: null }, approval],
  approvalApprove: { approval, result: null },
  approvalDeny: { ...approval, state: 'denied' },
  accessSettings: settings,
  accessSettingsUpdate: { ...settings, approvals: true },
  signOnSet: settings,
  signOnRemove: settings,
  setupLink: invitation,
};

type Answer = <Name extends AccessOperationName>(
  name: Name,
  result: (params: never) => unknown,
) => (params: never, context: OperationContext) => Promise<never>;

/** The operations on users, as `answer` answers. */
export function fakeAccess(answer: Answer): AccessOperations {
  const names = Object.keys(fakeAccessResults) as AccessOperationName[];
  const operations = names.map((name) => [name, answer(name, () => fakeAccessResults[name])]);
  return Object.fromEntries(operations) as AccessOperations;
}
