// SPDX-License-Identifier: Apache-2.0
import type { Collection, CollectionDefinition } from '../config/collection.ts';
import type { SecretBox } from '../config/secret-box.ts';
import { type Clock, systemClock } from '../core/clock.ts';
import { AccessSettingsStore, checkAccessSettings } from './access-settings.ts';
import { ApiTokens, checkTokenRecord } from './api-tokens.ts';
import { Approvals, checkApprovalRecord, type Participant } from './approvals.ts';
import { checkInvitationRecord, Invitations } from './invitations.ts';
import { Login } from './login.ts';
import { DEFAULT_HASH_COST, type HashCost } from './password-hash.ts';
import { Passwords } from './passwords.ts';
import type { Principal } from './principal.ts';
import { SecondFactor } from './second-factor.ts';
import { checkSessionRecord, Sessions } from './sessions.ts';
import { SingleSignOn } from './single-sign-on.ts';
import { checkUserRecord, principalOfUser, type UserEntry, Users } from './users.ts';

export interface AccessOptions {
  /** `Configuration.collection`, which opens each once. */
  readonly collection: <T>(definition: CollectionDefinition<T>) => Promise<Collection<T>>;
  readonly box: SecretBox;
  readonly clock?: Clock;
  readonly hashCost?: HashCost;
}

/** Who may do what, of one appliance: everything that is known of its users. */
export class Access {
  readonly settings: AccessSettingsStore;
  readonly users: Users;
  readonly sessions: Sessions;
  readonly tokens: ApiTokens;
  readonly invitations: Invitations;
  readonly approvals: Approvals;
  readonly secondFactor: SecondFactor;
  readonly login: Login;
  readonly signOn: SingleSignOn;
  readonly box: SecretBox;
  readonly clock: Clock;

  private constructor(
    parts: Pick<Access, 'settings' | 'users' | 'sessions' | 'tokens' | 'invitations' | 'approvals'> &
      Pick<Access, 'secondFactor' | 'login' | 'signOn' | 'box' | 'clock'>,
  ) {
    this.settings = parts.settings;
    this.users = parts.users;
    this.sessions = parts.sessions;
    this.tokens = parts.tokens;
    this.invitations = parts.invitations;
    this.approvals = parts.approvals;
    this.secondFactor = parts.secondFactor;
    this.login = parts.login;
    this.signOn = parts.signOn;
    this.box = parts.box;
    this.clock = parts.clock;
  }

  /** @throws ApplianceError CONFIG_DAMAGED, CONFIG_FORMAT, IO_FAILED */
  static async open({ collection: open, box, clock = systemClock, hashCost }: AccessOptions): Promise<Access> {
    const collection = <T>(name: string, check: (value: unknown) => T): Promise<Collection<T>> => open({ name, check });
    const cost = hashCost ?? DEFAULT_HASH_COST;
    const passwords = new Passwords(cost);
    const settings = new AccessSettingsStore(await collection('access', checkAccessSettings));
    const users = new Users(await collection('users', checkUserRecord), clock, (password) => passwords.hash(password));
    const sessions = new Sessions({
      records: await collection('sessions', checkSessionRecord),
      users,
      clock,
      limits: () => settings.sessionLimits,
    });
    const tokens = new ApiTokens(await collection('tokens', checkTokenRecord), users, clock);
    const invitations = new Invitations(await collection('invitations', checkInvitationRecord), users, clock);
    const approvals = new Approvals({
      records: await collection('approvals', checkApprovalRecord),
      box,
      clock,
      settings: () => settings.current.approvals,
    });
    const secondFactor = new SecondFactor(users, box, clock);
    const login = new Login({ users, passwords, secondFactor, box, clock });
    return new Access({
      settings,
      users,
      sessions,
      tokens,
      invitations,
      approvals,
      secondFactor,
      login,
      signOn: new SingleSignOn({ settings, users, box, clock }),
      box,
      clock,
    });
  }

  /** With the user's tokens and sessions. @throws NOT_FOUND, LAST_ADMIN */
  async deleteUser(nameOrId: string): Promise<UserEntry> {
    const user = await this.users.delete(nameOrId);
    await this.tokens.revokeAllOf(user.id);
    await this.sessions.sweep();
    return user;
  }

  /** The one who asked for something, as things are now; undefined when there is nobody any more who could. */
  principalOf({ person, kind, id, name }: Participant): Principal | undefined {
    if (person === 'local') {
      const local: Principal = { kind: 'local', id, name, role: 'admin', machines: null };
      return kind === 'local' || this.tokens.list(null).some((token) => token.id === id) ? local : undefined;
    }
    const user = this.users.records.find(person);
    return user === undefined || user.value.isDisabled ? undefined : principalOfUser(user);
  }
}
