// SPDX-License-Identifier: Apache-2.0
import type { AccessOperationName } from './access-operations.ts';
import type { OperationRoute } from './operation-routes.ts';

/** What concerns only the one who asks; every role may do it. */
const OWN = { needs: 'viewer', restorer: { own: true } } as const;

/** Changes who may do what: with approvals on, one person must not. */
const ADMINISTRATION = { kind: 'change', needs: 'admin', secondPerson: true } as const;

/** The part of `OPERATION_ROUTES` that is about users. */
export const ACCESS_ROUTES: { readonly [Name in AccessOperationName]: OperationRoute } = {
  whoami: { http: 'GET /whoami', kind: 'read', ...OWN, summary: 'On whose behalf the request is made' },
  passwordChange: {
    http: 'POST /whoami/password',
    kind: 'change',
    ...OWN,
    secrets: ['currentPassword', 'password'],
    summary: 'Choose another password; every session of the user ends',
  },
  secondFactorEnrol: {
    http: 'POST /whoami/second-factor',
    kind: 'change',
    ...OWN,
    secrets: ['currentPassword'],
    summary: 'A secret for an authenticator app, which counts when it is confirmed',
  },
  secondFactorConfirm: {
    http: 'POST /whoami/second-factor/confirmation',
    kind: 'change',
    ...OWN,
    secrets: ['code'],
    summary: 'Confirm the app with a code of it; gives the recovery codes',
  },
  secondFactorRemove: {
    http: 'POST /whoami/second-factor/removal',
    kind: 'change',
    ...OWN,
    secrets: ['currentPassword'],
    summary: 'Log in without a second factor again',
  },
  userList: { http: 'GET /users', kind: 'read', isList: true, needs: 'admin', summary: 'The users' },
  userShow: { http: 'GET /users/:name', kind: 'read', needs: 'admin', summary: 'One user' },
  userCreate: {
    http: 'POST /users',
    ...ADMINISTRATION,
    secrets: ['password'],
    summary: 'Make a user, who chooses a password by an invitation',
  },
  userUpdate: { http: 'PATCH /users/:name', ...ADMINISTRATION, summary: 'Change role, machines or name; disable' },
  userDelete: { http: 'DELETE /users/:name', ...ADMINISTRATION, summary: 'Delete a user, with sessions and tokens' },
  userInvite: {
    http: 'POST /users/:name/invitation',
    ...ADMINISTRATION,
    summary: 'A link with which a user chooses a new password',
  },
  userSecondFactorReset: {
    http: 'DELETE /users/:name/second-factor',
    ...ADMINISTRATION,
    summary: 'Let a user who lost the second factor log in without',
  },
  sessionList: {
    http: 'GET /sessions',
    kind: 'read',
    isList: true,
    ...OWN,
    summary: 'Who is logged in; everybody for an administrator',
  },
  sessionEnd: { http: 'DELETE /sessions/:id', kind: 'change', ...OWN, summary: 'End a session' },
  tokenList: {
    http: 'GET /tokens',
    kind: 'read',
    isList: true,
    ...OWN,
    summary: 'The API tokens; of everybody for an administrator',
  },
  tokenCreate: { http: 'POST /tokens', kind: 'change', ...OWN, summary: 'Make an API token, which is shown once' },
  tokenRevoke: { http: 'DELETE /tokens/:id', kind: 'change', ...OWN, summary: 'Revoke an API token' },
  approvalList: {
    http: 'GET /approvals',
    kind: 'read',
    isList: true,
    needs: 'admin',
    summary: 'What waits for a second person, and what became of it',
  },
  approvalApprove: {
    http: 'POST /approvals/:id/approve',
    kind: 'run',
    needs: 'admin',
    summary: 'Agree; when enough people have, it is done in the name of the one who asked',
  },
  approvalDeny: {
    http: 'POST /approvals/:id/deny',
    kind: 'change',
    needs: 'admin',
    summary: 'Refuse, or take back what one asked for',
  },
  accessSettings: { http: 'GET /access', kind: 'read', needs: 'admin', summary: 'The settings of access' },
  accessSettingsUpdate: { http: 'PATCH /access', ...ADMINISTRATION, summary: 'Change the settings of access' },
  signOnSet: {
    http: 'PUT /access/sign-on',
    ...ADMINISTRATION,
    secrets: ['clientSecret'],
    summary: 'Let users log in at an identity provider (OpenID Connect)',
  },
  signOnRemove: { http: 'DELETE /access/sign-on', ...ADMINISTRATION, summary: 'End single sign-on' },
  setupLink: {
    http: 'POST /access/setup-link',
    kind: 'change',
    needs: 'admin',
    summary: 'The link for the first administrator; for the owner of the appliance only',
  },
};
