// SPDX-License-Identifier: Apache-2.0
import { type Immutable, type Static, Type } from './type.ts';
import {
  count,
  flag,
  list,
  maybe,
  number,
  oneOf,
  orNull,
  params,
  part,
  report,
  text,
  time,
  word,
} from './vocabulary.ts';

/** Who may do what: users, tokens, sessions, approvals (docs/access.md). */

const roles = ['restorer', 'viewer', 'operator', 'admin'] as const;
const role = oneOf(roles);
/** Long enough for any password that is allowed, in any script. */
const password = Type.String({ minLength: 1, maxLength: 1024 });
const code = Type.String({ minLength: 6, maxLength: 64, description: 'Of the app, or a recovery code.' });
const machines = Type.Array(Type.String({ minLength: 1, maxLength: 200 }), {
  minItems: 1,
  maxItems: 1000,
  description: 'Ids of the machines that a restorer may restore; for that role only.',
});
const user = word('A name or id.');
const id = word('An id.');
const currentPassword = Type.String({ ...password, description: 'The password that you have now.' });

export const userSummary = report('UserSummary', {
  id: text(),
  name: text(),
  displayName: text(),
  role,
  machines: orNull(list(text()), 'Of a restorer; null for every other role.'),
  disabled: flag(),
  hasPassword: flag('False for who logs in by single sign-on only, or has not chosen one yet.'),
  hasSecondFactor: flag(),
  identity: orNull(part({ issuer: text(), subject: text() }), 'Who it is at an identity provider.'),
  createdAt: time(),
  passwordChangedAt: orNull(time()),
});

export const userListResult = Type.Array(userSummary);
export const userParams = params({ name: user });
export const userCreateParams = params({
  name: word('Up to 64 letters, digits and `. _ @ + -`.'),
  displayName: maybe(Type.String({ minLength: 1, maxLength: 200 })),
  role,
  machines: maybe(machines),
  password: maybe(Type.String({ ...password, description: 'Left out: the user chooses one, with an invitation.' })),
});
export const invitation = report(
  'Invitation',
  {
    token: text('Behind `/setup#` of the appliance, a link that works once. It is shown here and never again.'),
    expiresAt: time(),
  },
  'A link with which a user chooses a password.',
);
export const userCreateResult = report('UserCreated', {
  user: userSummary,
  invitation: orNull(invitation, 'Null where a password was given.'),
});
export const userUpdateParams = params({
  name: user,
  displayName: maybe(Type.String({ minLength: 1, maxLength: 200 })),
  role: maybe(role),
  machines: maybe(machines),
  disabled: maybe(flag('May not log in, and neither may the tokens that the user made.')),
});

export const whoAmI = report(
  'WhoAmI',
  {
    kind: oneOf(['local', 'user', 'token', 'policy', 'appliance']),
    id: text(),
    name: text(),
    role,
    machines: orNull(list(text()), 'Of a restorer; null for every other role: all.'),
    hasSecondFactor: flag(),
  },
  'On whose behalf the request was made.',
);

export const passwordChangeParams = params({ currentPassword, password });
export const secondFactorEnrolParams = params({ currentPassword });
export const secondFactorEnrolment = report('SecondFactorEnrolment', {
  secret: text('Base32, for typing it into an app.'),
  uri: text('`otpauth://…`, for a picture that an app scans.'),
});
export const secondFactorConfirmParams = params({ code });
export const recoveryCodes = report('RecoveryCodes', {
  codes: list(text(), 'Each works once instead of a code of the app. They are shown here and never again.'),
});
export const secondFactorRemoveParams = params({ currentPassword });

export const sessionSummary = report('SessionSummary', {
  id: text(),
  user: text(),
  createdAt: time(),
  seenAt: time(),
  address: text(),
  agent: text('What the browser says that it is.'),
});
export const sessionListResult = Type.Array(sessionSummary);
export const sessionEndParams = params({ id });

export const tokenSummary = report('TokenSummary', {
  id: text(),
  name: text(),
  user: orNull(text(), 'Who made it; null for the owner of the appliance.'),
  role: role,
  machines: orNull(list(text())),
  createdAt: time(),
  expiresAt: orNull(time()),
  lastUsed: orNull(time(), 'Within the hour.'),
  expired: flag(),
});
export const tokenListResult = Type.Array(tokenSummary);
export const tokenCreateParams = params({
  name: Type.String({ minLength: 1, maxLength: 100, description: 'What it is for.' }),
  role: maybe(oneOf(roles, 'At most your own, which it is when left out.')),
  machines: maybe(machines),
  expires: maybe(word('A time (`2027-01-01T00:00:00Z`), or in how long (`30d`, `12h`); never when left out.')),
});
export const tokenCreateResult = report('TokenCreated', {
  token: text('The token itself. It is shown here and never again.'),
  summary: tokenSummary,
});
export const tokenRevokeParams = params({ id: word('An id, or a name that only one has.') });

const participant = part({ name: text(), at: time() });
export const approvalSummary = report('ApprovalSummary', {
  id: text(),
  operation: text(),
  params: Type.Record(Type.Unknown(), { description: 'Without what is secret.' }),
  state: oneOf(['pending', 'running', 'done', 'failed', 'denied']),
  requestedBy: participant,
  expiresAt: time(),
  approvedBy: list(participant),
  deniedBy: orNull(participant),
  brokenGlass: orNull(text(), 'The reason of the owner, who went ahead without a second person.'),
  decidedAt: orNull(time()),
  error: orNull(text(), 'The code of the error with which it ended.'),
});
export const approvalListResult = Type.Array(approvalSummary);
export const approvalParams = params({ id });
export const approvalApproveParams = params({
  id,
  breakGlass: maybe(word('Why it cannot wait for a second person. For the owner of the appliance only.')),
});
export const approvalApproveResult = report('ApprovalOutcome', {
  approval: approvalSummary,
  result: Type.Unknown({ description: 'What the operation gave; null while more people have to agree.' }),
});

const groupRole = part({ group: text(), role, machines: orNull(list(text())) });
export const accessSettings = report('AccessSettings', {
  approvals: flag('Destructive acts, and changes of who may do what, need a second person.'),
  approvers: count('How many people have to agree, who asks included.'),
  approvalHours: count('After so long a request is void.'),
  sessionIdleMinutes: count('A session that was not used for so long ends.'),
  sessionHours: count('A session ends after so long.'),
  singleSignOn: orNull(
    part({
      issuer: text(),
      clientId: text(),
      hasClientSecret: flag(),
      origin: text(),
      scopes: list(text()),
      groupsClaim: orNull(text()),
      roles: list(groupRole),
      createsUsers: flag(),
    }),
  ),
});
export const accessSettingsUpdateParams = params({
  approvals: maybe(flag()),
  approvers: maybe(number({ from: 2, to: 5 })),
  approvalHours: maybe(number({ from: 1, to: 720 })),
  sessionIdleMinutes: maybe(number({ from: 1, to: 1440 })),
  sessionHours: maybe(number({ from: 1, to: 720 })),
});
export const signOnSetParams = params({
  issuer: word('The provider: `https://id.example.org`.'),
  clientId: word(),
  clientSecret: maybe(word('Left out: the one from before, if there was one.')),
  origin: word('Of this appliance, as browsers see it: `https://backup.example.org`.'),
  scopes: maybe(
    Type.Array(word(), {
      minItems: 1,
      maxItems: 20,
      description: 'Besides `openid`; default: `profile` and `email`.',
    }),
  ),
  groupsClaim: maybe(word('The claim with the groups of a user: `groups`. Left out: roles are given here, by hand.')),
  roles: maybe(
    Type.Array(
      Type.Object(
        { group: word(), role, machines: maybe(machines) },
        { additionalProperties: false, description: 'What a group is worth here.' },
      ),
      { minItems: 1, maxItems: 200, description: 'The first that fits counts.' },
    ),
  ),
  createsUsers: maybe(flag('Makes a user of somebody who logs in for the first time and has a role by their groups.')),
});

export type UserSummary = Immutable<Static<typeof userSummary>>;
export type UserParams = Immutable<Static<typeof userParams>>;
export type UserCreateParams = Immutable<Static<typeof userCreateParams>>;
export type UserCreateReport = Immutable<Static<typeof userCreateResult>>;
export type UserUpdateParams = Immutable<Static<typeof userUpdateParams>>;
export type InvitationReport = Immutable<Static<typeof invitation>>;
export type WhoAmIReport = Immutable<Static<typeof whoAmI>>;
export type PasswordChangeParams = Immutable<Static<typeof passwordChangeParams>>;
export type SecondFactorEnrolParams = Immutable<Static<typeof secondFactorEnrolParams>>;
export type SecondFactorEnrolment = Immutable<Static<typeof secondFactorEnrolment>>;
export type SecondFactorConfirmParams = Immutable<Static<typeof secondFactorConfirmParams>>;
export type RecoveryCodesReport = Immutable<Static<typeof recoveryCodes>>;
export type SecondFactorRemoveParams = Immutable<Static<typeof secondFactorRemoveParams>>;
export type SessionReport = Immutable<Static<typeof sessionSummary>>;
export type SessionEndParams = Immutable<Static<typeof sessionEndParams>>;
export type TokenSummary = Immutable<Static<typeof tokenSummary>>;
export type TokenCreateParams = Immutable<Static<typeof tokenCreateParams>>;
export type TokenCreateReport = Immutable<Static<typeof tokenCreateResult>>;
export type TokenRevokeParams = Immutable<Static<typeof tokenRevokeParams>>;
export type ApprovalSummary = Immutable<Static<typeof approvalSummary>>;
export type ApprovalParams = Immutable<Static<typeof approvalParams>>;
export type ApprovalApproveParams = Immutable<Static<typeof approvalApproveParams>>;
export type ApprovalApproveReport = Immutable<Static<typeof approvalApproveResult>>;
export type AccessSettingsReport = Immutable<Static<typeof accessSettings>>;
export type AccessSettingsUpdateParams = Immutable<Static<typeof accessSettingsUpdateParams>>;
export type SignOnSetParams = Immutable<Static<typeof signOnSetParams>>;
