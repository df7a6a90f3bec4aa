// SPDX-License-Identifier: Apache-2.0
import { Access } from '../../appliance/access/access.ts';
import type { HashCost } from '../../appliance/access/password-hash.ts';
import type { Principal } from '../../appliance/access/principal.ts';
import { principalOfUser } from '../../appliance/access/users.ts';
import { ApplianceKeys } from '../../appliance/config/appliance-key.ts';
import { Collection } from '../../appliance/config/collection.ts';
import { SecretBox } from '../../appliance/config/secret-box.ts';
import type { Clock } from '../../appliance/core/clock.ts';
import type { TestContext } from './test-scope.ts';

/** A cost that takes a millisecond. */
export const CHEAP_HASH_COST = { memoryKib: 64, passes: 1, parallelism: 1 } as const;

export const TEST_PASSWORD = 'tangerine ladder';

/** A clock that a test sets. */
export class TestClock implements Clock {
  timeMs: number = Date.UTC(2026, 10, 22);

  nowMs(): number {
    return this.timeMs;
  }

  elapsedMs(): number {
    return this.timeMs;
  }
}

export interface AccessRig {
  readonly access: Access;
  readonly clock: TestClock;
  readonly directory: string;
  /** The same files in a new process. */
  readonly reopen: (hashCost?: HashCost) => Promise<Access>;
}

export async function accessRig(t: TestContext): Promise<AccessRig> {
  const directory = await t.tempDir();
  const clock = new TestClock();
  const box = new SecretBox(await ApplianceKeys.open(directory));
  const reopen = (hashCost: HashCost = CHEAP_HASH_COST): Promise<Access> =>
    Access.open({ collection: (definition) => Collection.open({ ...definition, directory }), box, clock, hashCost });
  return { access: await reopen(), clock, directory, reopen };
}

/** Makes a user and gives them as a principal. */
export async function userOf(
  access: Access,
  name: string,
  role: Principal['role'],
  machines?: readonly string[],
): Promise<Principal> {
  return principalOfUser(await access.users.create({ name, role, machines, password: TEST_PASSWORD }));
}

export const LOCAL: Principal = { kind: 'local', id: 'root', name: 'root', role: 'admin', machines: null };
