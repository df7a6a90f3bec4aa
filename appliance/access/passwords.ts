// SPDX-License-Identifier: Apache-2.0
import { type HashCost, hashOfNobody, hashPassword, isStale, verifyPassword } from './password-hash.ts';
import { Turns } from './turns.ts';

/** Passwords that are hashed at a time in each lane, each with the memory that its cost says. */
const AT_ONCE = 2;
const WAITING = 32;

/** `known`: somebody of whom is known that they logged in before; what others do does not hold them up. */
export type Lane = 'known' | 'unknown';

/** Hashing with bounded memory: at most four at a time, each 64 MiB unless another cost is set. */
export class Passwords {
  readonly #cost: HashCost;
  readonly #nobody: string;
  readonly #lanes: Readonly<Record<Lane, Turns>>;

  constructor(cost: HashCost) {
    this.#cost = cost;
    this.#nobody = hashOfNobody(cost);
    const lane = (): Turns => new Turns({ atOnce: AT_ONCE, waiting: WAITING });
    this.#lanes = { known: lane(), unknown: lane() };
  }

  /** @throws LOGIN_LIMITED when too many wait */
  hash(password: string): Promise<string> {
    return this.#lanes.known.run(() => hashPassword(password, this.#cost));
  }

  /** False, after as much work, where there is no hash. @throws LOGIN_LIMITED */
  async verify(password: string, hash: string | null, lane: Lane): Promise<boolean> {
    const isRight = await this.#lanes[lane].run(() => verifyPassword(password, hash ?? this.#nobody));
    return isRight && hash !== null;
  }

  isStale(hash: string): boolean {
    return isStale(hash, this.#cost);
  }
}
