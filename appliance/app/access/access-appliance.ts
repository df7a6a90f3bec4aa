// SPDX-License-Identifier: Apache-2.0
import type { Access } from '../../access/access.ts';
import type { TokenEntry } from '../../access/api-tokens.ts';
import type { Principal } from '../../access/principal.ts';
import type { UserEntry, Users } from '../../access/users.ts';
import type { AccessOperations } from '../../api/access-operations.ts';
import type { Nothing, OperationContext } from '../../api/operations.ts';
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
} from '../../api/schemas/access.ts';
import { ApplianceError } from '../../core/errors.ts';
import { parseDurationMs } from '../../core/quantities.ts';
import { approvalReport, sessionReport, settingsReport, timeOf, tokenReport, userReport } from './access-reports.ts';
import { changedSettings, withSignOn } from './changed-settings.ts';
import { type PerformApproved, performWhenApproved } from './perform-when-approved.ts';

/** The operations on users, tokens, sessions and approvals. Who may call which is decided before (`api/guard`). */
export class AccessAppliance implements AccessOperations {
  readonly #access: Access;
  readonly #perform: PerformApproved;

  /** `perform` does an operation that was approved, without asking again. */
  constructor(access: Access, perform: PerformApproved) {
    this.#access = access;
    this.#perform = perform;
  }

  async whoami(_params: Nothing, { principal }: OperationContext): Promise<WhoAmIReport> {
    const { kind, id, name, role, machines } = principal;
    const user = kind === 'user' ? this.#access.users.records.find(id) : undefined;
    return { kind, id, name, role, machines, hasSecondFactor: (user?.value.totp ?? null) !== null };
  }

  async passwordChange(params: PasswordChangeParams, { principal }: OperationContext): Promise<UserSummary> {
    const user = await this.#confirmed(principal, params.currentPassword);
    return userReport(await this.#access.users.setPassword(user.id, params.password));
  }

  async secondFactorEnrol(
    params: SecondFactorEnrolParams,
    { principal }: OperationContext,
  ): Promise<SecondFactorEnrolment> {
    return this.#access.secondFactor.enrol((await this.#confirmed(principal, params.currentPassword)).id);
  }

  async secondFactorConfirm(
    params: SecondFactorConfirmParams,
    { principal }: OperationContext,
  ): Promise<RecoveryCodesReport> {
    return { codes: await this.#access.secondFactor.confirm(this.#user(principal).id, params.code) };
  }

  async secondFactorRemove(params: SecondFactorRemoveParams, { principal }: OperationContext): Promise<UserSummary> {
    const user = await this.#confirmed(principal, params.currentPassword);
    return userReport(await this.#access.secondFactor.remove(user.id));
  }

  async userList(): Promise<readonly UserSummary[]> {
    return this.#access.users.list().map(userReport);
  }

  async userShow({ name }: UserParams): Promise<UserSummary> {
    return userReport(this.#access.users.get(name));
  }

  async userCreate(params: UserCreateParams): Promise<UserCreateReport> {
    const user = await this.#access.users.create(params);
    const invitation = params.password === undefined ? await this.#invite(user) : null;
    return { user: userReport(user), invitation };
  }

  async userUpdate({ name, disabled, ...changes }: UserUpdateParams): Promise<UserSummary> {
    return userReport(await this.#access.users.change(name, { ...changes, isDisabled: disabled }));
  }

  async userDelete({ name }: UserParams): Promise<UserSummary> {
    return userReport(await this.#access.deleteUser(name));
  }

  async userInvite({ name }: UserParams): Promise<InvitationReport> {
    return this.#invite(this.#access.users.get(name));
  }

  async userSecondFactorReset({ name }: UserParams): Promise<UserSummary> {
    return userReport(await this.#access.secondFactor.remove(this.#access.users.get(name).id));
  }

  async sessionList(_params: Nothing, { principal }: OperationContext): Promise<readonly SessionReport[]> {
    const { sessions, users } = this.#access;
    return sessions.list(ownerOf(principal) ?? undefined).map((session) => sessionReport(session, users));
  }

  async sessionEnd({ id }: SessionEndParams, { principal }: OperationContext): Promise<Nothing> {
    const { sessions } = this.#access;
    const isThere = sessions.list(ownerOf(principal) ?? undefined).some((session) => session.id === id);
    if (!isThere) throw new ApplianceError('NOT_FOUND', `there is no session ${id}`);
    await sessions.end(id);
    return {};
  }

  async tokenList(_params: Nothing, { principal }: OperationContext): Promise<readonly TokenSummary[]> {
    return this.#tokensOf(principal).map((entry) => this.#tokenReport(entry));
  }

  async tokenCreate(
    { expires, ...wishes }: TokenCreateParams,
    { principal }: OperationContext,
  ): Promise<TokenCreateReport> {
    if (principal.kind !== 'local') this.#user(principal);
    const expiresAtMs = expires === undefined ? undefined : momentOf(expires, this.#access.clock.nowMs());
    const { token, entry } = await this.#access.tokens.create(principal, { ...wishes, expiresAtMs });
    return { token, summary: this.#tokenReport(entry) };
  }

  async tokenRevoke({ id }: TokenRevokeParams, { principal }: OperationContext): Promise<TokenSummary> {
    const { tokens } = this.#access;
    const entry = tokens.find(id, this.#tokensOf(principal));
    const report = this.#tokenReport(entry);
    await tokens.revoke(entry.id);
    return report;
  }

  async approvalList(): Promise<readonly ApprovalSummary[]> {
    return this.#access.approvals.list().map(approvalReport);
  }

  async approvalApprove(params: ApprovalApproveParams, context: OperationContext): Promise<ApprovalApproveReport> {
    const { id, breakGlass } = params;
    const result = await performWhenApproved(
      { access: this.#access, perform: this.#perform },
      { id, breakGlass, context },
    );
    return { approval: approvalReport(this.#access.approvals.get(id)), result };
  }

  async approvalDeny({ id }: ApprovalParams, { principal }: OperationContext): Promise<ApprovalSummary> {
    return approvalReport(await this.#access.approvals.deny(id, principal));
  }

  async accessSettings(): Promise<AccessSettingsReport> {
    return settingsReport(this.#access.settings.current);
  }

  async accessSettingsUpdate(params: AccessSettingsUpdateParams): Promise<AccessSettingsReport> {
    const { settings, users } = this.#access;
    const next = changedSettings(settings.current, params);
    return settingsReport(await settings.change(next, approversAmong(users)));
  }

  async signOnSet(params: SignOnSetParams): Promise<AccessSettingsReport> {
    const { settings, users, box } = this.#access;
    const singleSignOn = withSignOn(settings.current.singleSignOn, params, box);
    return settingsReport(await settings.change({ singleSignOn }, approversAmong(users)));
  }

  async signOnRemove(): Promise<AccessSettingsReport> {
    const { settings, users } = this.#access;
    return settingsReport(await settings.change({ singleSignOn: null }, approversAmong(users)));
  }

  async setupLink(_params: Nothing, { principal }: OperationContext): Promise<InvitationReport> {
    if (principal.kind !== 'local') {
      throw new ApplianceError('FORBIDDEN', 'only the owner of the appliance may ask for the link of its first user');
    }
    const { secret, expiresAtMs } = await this.#access.invitations.setup();
    return { token: secret, expiresAt: timeOf(expiresAtMs) };
  }

  async #invite(user: UserEntry): Promise<InvitationReport> {
    const { secret, expiresAtMs } = await this.#access.invitations.invite(user);
    return { token: secret, expiresAt: timeOf(expiresAtMs) };
  }

  /** The one who asks, who has to be there in person: a token must not be able to make itself last. */
  #user(principal: Principal): UserEntry {
    const user = principal.kind === 'user' ? this.#access.users.records.find(principal.id) : undefined;
    if (user === undefined) throw new ApplianceError('FORBIDDEN', 'only a user who is logged in may do this');
    return user;
  }

  async #confirmed(principal: Principal, password: string): Promise<UserEntry> {
    const user = this.#user(principal);
    await this.#access.login.confirm(user, password);
    return user;
  }

  #tokensOf(principal: Principal): readonly TokenEntry[] {
    return this.#access.tokens.list(ownerOf(principal) ?? undefined);
  }

  #tokenReport(entry: TokenEntry): TokenSummary {
    const { users, tokens, clock } = this.#access;
    return tokenReport(entry, { users, tokens, nowMs: clock.nowMs() });
  }
}

/** The user whose own things are meant; null for who sees everybody's. Nobody's for a token of the owner of the appliance. */
function ownerOf({ kind, id, role, madeBy }: Principal): string | null {
  if (role === 'admin') return null;
  return kind === 'user' ? id : (madeBy ?? 'nobody');
}

/** Administrators who can log in: one who has not chosen a password yet could not agree to anything. */
function approversAmong(users: Users): number {
  return users.admins().filter(({ value }) => value.passwordHash !== null || value.identity !== null).length;
}

/** A time, or how long from now. @throws BAD_ARGUMENT */
function momentOf(text: string, nowMs: number): number {
  if (/^\d+ ?[a-z]+$/.test(text)) return nowMs + parseDurationMs(text);
  const timeMs = /^\d{4}-\d\d-\d\d(T[\d:.]+(Z|[+-]\d\d:?\d\d))?$/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(timeMs)) {
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text.slice(0, 80))} is no time`, {
      hint: 'Use 2027-01-01T00:00:00Z, 2027-01-01, or a duration like 30d.',
    });
  }
  return timeMs;
}
