// SPDX-License-Identifier: Apache-2.0
import type { Nothing, OperationContext } from './operations.ts';
import type {
  AccessSettingsReport,
  AccessSettingsUpdateParams,
  ApprovalApproveParams,
  ApprovalApproveReport,
  ApprovalParams,
  ApprovalSummary,
  InvitationReport,
  PasswordChangeParams,
  RecoveryCodesReport,
  SecondFactorConfirmParams,
  SecondFactorEnrolment,
  SecondFactorEnrolParams,
  SecondFactorRemoveParams,
  SessionEndParams,
  SessionReport,
  SignOnSetParams,
  TokenCreateParams,
  TokenCreateReport,
  TokenRevokeParams,
  TokenSummary,
  UserCreateParams,
  UserCreateReport,
  UserParams,
  UserSummary,
  UserUpdateParams,
  WhoAmIReport,
} from './schemas/access.ts';

/** The operations on who may do what; docs/access.md. */
export interface AccessOperations {
  whoami(params: Nothing, context: OperationContext): Promise<WhoAmIReport>;
  /** Of the user who asks, whose sessions end, this one too. */
  passwordChange(params: PasswordChangeParams, context: OperationContext): Promise<UserSummary>;
  secondFactorEnrol(params: SecondFactorEnrolParams, context: OperationContext): Promise<SecondFactorEnrolment>;
  secondFactorConfirm(params: SecondFactorConfirmParams, context: OperationContext): Promise<RecoveryCodesReport>;
  secondFactorRemove(params: SecondFactorRemoveParams, context: OperationContext): Promise<UserSummary>;
  userList(params: Nothing, context: OperationContext): Promise<readonly UserSummary[]>;
  userShow(params: UserParams, context: OperationContext): Promise<UserSummary>;
  userCreate(params: UserCreateParams, context: OperationContext): Promise<UserCreateReport>;
  userUpdate(params: UserUpdateParams, context: OperationContext): Promise<UserSummary>;
  userDelete(params: UserParams, context: OperationContext): Promise<UserSummary>;
  /** A link with which the user chooses a new password. */
  userInvite(params: UserParams, context: OperationContext): Promise<InvitationReport>;
  /** For who lost the app and the recovery codes. */
  userSecondFactorReset(params: UserParams, context: OperationContext): Promise<UserSummary>;
  /** One's own; an administrator's are all. */
  sessionList(params: Nothing, context: OperationContext): Promise<readonly SessionReport[]>;
  sessionEnd(params: SessionEndParams, context: OperationContext): Promise<Nothing>;
  /** One's own; an administrator's are all. */
  tokenList(params: Nothing, context: OperationContext): Promise<readonly TokenSummary[]>;
  tokenCreate(params: TokenCreateParams, context: OperationContext): Promise<TokenCreateReport>;
  tokenRevoke(params: TokenRevokeParams, context: OperationContext): Promise<TokenSummary>;
  approvalList(params: Nothing, context: OperationContext): Promise<readonly ApprovalSummary[]>;
  /** Agrees, and does it when enough people have. */
  approvalApprove(params: ApprovalApproveParams, context: OperationContext): Promise<ApprovalApproveReport>;
  approvalDeny(params: ApprovalParams, context: OperationContext): Promise<ApprovalSummary>;
  accessSettings(params: Nothing, context: OperationContext): Promise<AccessSettingsReport>;
  accessSettingsUpdate(params: AccessSettingsUpdateParams, context: OperationContext): Promise<AccessSettingsReport>;
  signOnSet(params: SignOnSetParams, context: OperationContext): Promise<AccessSettingsReport>;
  signOnRemove(params: Nothing, context: OperationContext): Promise<AccessSettingsReport>;
  /** The link for the first administrator, for the owner of the appliance; the one before is void. */
  setupLink(params: Nothing, context: OperationContext): Promise<InvitationReport>;
}

export type AccessOperationName = keyof AccessOperations;
