// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import type { Principal } from '../../access/principal.ts';
import type { Clock } from '../../core/clock.ts';
import { ApplianceError } from '../../core/errors.ts';

/** Answers are kept for so long, so many of them, and of so many characters together; the oldest go first. */
export const IDEMPOTENCY_WINDOW_MS: number = 24 * 3600 * 1000;
export const MAX_KEPT_ANSWERS = 10_000;
const MAX_KEPT_CHARACTERS: number = 16 * 1024 * 1024;

/** Printable ASCII, as HTTP carries it. */
const KEY = /^[\x21-\x7e]{1,255}$/;

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** JSON. */
  readonly body: string;
}

interface Entry {
  readonly digest: string;
  readonly answer: Promise<Answer>;
  readonly atMs: number;
  characters: number;
}

export interface KeyedRequest {
  readonly key: string;
  readonly principal: Principal;
  readonly method: string;
  readonly url: string;
  readonly body: unknown;
}

/**
 * A request that comes twice with the same `Idempotency-Key` is done once, and answered the same both times. Each caller has keys of its
 * own. What failed is not kept: it can be tried again. Keys live in memory: they do not outlast the process.
 */
export class IdempotencyKeys {
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry>();
  #characters = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @throws BAD_ARGUMENT for a key that is none, IDEMPOTENCY_CONFLICT for one of another request; what `perform` throws */
  answer(request: KeyedRequest, perform: () => Promise<Answer>): Promise<Answer> {
    if (!KEY.test(request.key)) {
      throw new ApplianceError('BAD_ARGUMENT', 'an Idempotency-Key has 1 to 255 printable characters without spaces');
    }
    this.#expire();
    const { kind, id } = request.principal;
    const name = JSON.stringify([kind, id, request.key]);
    const digest = digestOf([request.method, request.url, request.body ?? null]);
    const known = this.#entries.get(name);
    if (known !== undefined) {
      if (known.digest === digest) return known.answer;
      throw new ApplianceError('IDEMPOTENCY_CONFLICT', 'this Idempotency-Key was used for another request');
    }
    const answer = perform();
    const entry: Entry = { digest, answer, atMs: this.#clock.elapsedMs(), characters: 0 };
    this.#entries.set(name, entry);
    answer.then(
      ({ body }) => {
        if (this.#entries.get(name) !== entry) return;
        entry.characters = body.length;
        this.#characters += body.length;
      },
      () => this.#forget(name, entry),
    );
    return answer;
  }

  #expire(): void {
    const oldestMs = this.#clock.elapsedMs() - IDEMPOTENCY_WINDOW_MS;
    for (const [name, entry] of this.#entries) {
      const isRoom = this.#entries.size < MAX_KEPT_ANSWERS && this.#characters < MAX_KEPT_CHARACTERS;
      if (isRoom && entry.atMs > oldestMs) return;
      this.#forget(name, entry);
    }
  }

  #forget(name: string, entry: Entry): void {
    if (this.#entries.get(name) !== entry) return;
    this.#entries.delete(name);
    this.#characters -= entry.characters;
  }
}

function digestOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64url');
}
