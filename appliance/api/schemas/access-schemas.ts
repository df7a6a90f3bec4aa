// SPDX-License-Identifier: Apache-2.0
import * as access from './access.ts';
import { noParams, nothing } from './vocabulary.ts';

/** The part of `OPERATION_SCHEMAS` that is about users. */
export const ACCESS_SCHEMAS = {
  whoami: { params: noParams, result: access.whoAmI },
  passwordChange: { params: access.passwordChangeParams, result: access.userSummary },
  secondFactorEnrol: { params: access.secondFactorEnrolParams, result: access.secondFactorEnrolment },
  secondFactorConfirm: { params: access.secondFactorConfirmParams, result: access.recoveryCodes },
  secondFactorRemove: { params: access.secondFactorRemoveParams, result: access.userSummary },
  userList: { params: noParams, result: access.userListResult },
  userShow: { params: access.userParams, result: access.userSummary },
  userCreate: { params: access.userCreateParams, result: access.userCreateResult },
  userUpdate: { params: access.userUpdateParams, result: access.userSummary },
  userDelete: { params: access.userParams, result: access.userSummary },
  userInvite: { params: access.userParams, result: access.invitation },
  userSecondFactorReset: { params: access.userParams, result: access.userSummary },
  sessionList: { params: noParams, result: access.sessionListResult },
  sessionEnd: { params: access.sessionEndParams, result: nothing },
  tokenList: { params: noParams, result: access.tokenListResult },
  tokenCreate: { params: access.tokenCreateParams, result: access.tokenCreateResult },
  tokenRevoke: { params: access.tokenRevokeParams, result: access.tokenSummary },
  approvalList: { params: noParams, result: access.approvalListResult },
  approvalApprove: { params: access.approvalApproveParams, result: access.approvalApproveResult },
  approvalDeny: { params: access.approvalParams, result: access.approvalSummary },
  accessSettings: { params: noParams, result: access.accessSettings },
  accessSettingsUpdate: { params: access.accessSettingsUpdateParams, result: access.accessSettings },
  signOnSet: { params: access.signOnSetParams, result: access.accessSettings },
  signOnRemove: { params: noParams, result: access.accessSettings },
  setupLink: { params: noParams, result: access.invitation },
} as const;
