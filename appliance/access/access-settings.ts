// SPDX-License-Identifier: Apache-2.0
import type { Collection } from '../config/collection.ts';
import type { SealedSecret } from '../config/secret-box.ts';
import { ApplianceError } from '../core/errors.ts';
import { documentCheck, isObject, orNull } from './document-check.ts';
import type { Role } from './principal.ts';

/** What a group at the identity provider is worth here. */
export interface GroupRole {
  readonly group: string;
  readonly role: Role;
  readonly machines: readonly string[] | null;
}

/** Logging in at an identity provider by OpenID Connect. */
export interface SingleSignOnSettings {
  readonly issuer: string;
  readonly clientId: string;
  readonly clientSecret: SealedSecret | null;
  /** Of this appliance, as the browsers of its users see it: `https://backup.example.org`. */
  readonly origin: string;
  readonly scopes: readonly string[];
  /** The claim with the names of the user's groups; null: roles are given here, by hand. */
  readonly groupsClaim: string | null;
  /** The first that fits counts. */
  readonly roles: readonly GroupRole[];
  /** Makes a user of somebody who logs in for the first time and whose groups give a role. */
  readonly createsUsers: boolean;
}

export interface AccessSettings {
  readonly approvals: {
    readonly isRequired: boolean;
    /** Who asks included. */
    readonly persons: number;
    readonly expireHours: number;
  };
  readonly sessions: { readonly idleMinutes: number; readonly absoluteHours: number };
  readonly singleSignOn: SingleSignOnSettings | null;
}

export const DEFAULT_ACCESS_SETTINGS: AccessSettings = {
  approvals: { isRequired: false, persons: 2, expireHours: 72 },
  sessions: { idleMinutes: 60, absoluteHours: 24 * 7 },
  singleSignOn: null,
};

export const checkAccessSettings: (value: unknown) => AccessSettings = documentCheck<AccessSettings>('setting', {
  approvals: isObject,
  sessions: isObject,
  singleSignOn: orNull(isObject),
});

const ONLY = 'access';
const MINUTE_MS = 60_000;

/** The one document of the settings of access; the defaults while there is none. */
export class AccessSettingsStore {
  readonly #records: Collection<AccessSettings>;

  constructor(records: Collection<AccessSettings>) {
    this.#records = records;
  }

  get current(): AccessSettings {
    return this.#records.find(ONLY)?.value ?? DEFAULT_ACCESS_SETTINGS;
  }

  get sessionLimits(): { readonly idleMs: number; readonly absoluteMs: number } {
    const { idleMinutes, absoluteHours } = this.current.sessions;
    return { idleMs: idleMinutes * MINUTE_MS, absoluteMs: absoluteHours * 60 * MINUTE_MS };
  }

  /**
   * Approval by more persons than there are would be a lock without a key: `administrators` is how many can approve.
   * @throws BAD_ARGUMENT
   */
  async change(changes: Partial<AccessSettings>, administrators: number): Promise<AccessSettings> {
    const next = { ...this.current, ...changes };
    const { isRequired, persons } = next.approvals;
    if (isRequired && administrators < persons) {
      throw new ApplianceError(
        'BAD_ARGUMENT',
        `${persons} administrators have to agree, and there ${administrators === 1 ? 'is' : 'are'} ${administrators}`,
        { hint: 'Make more users administrators first.' },
      );
    }
    return (await this.#records.put(ONLY, next)).value;
  }
}
