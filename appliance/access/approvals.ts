// SPDX-License-Identifier: Apache-2.0
import type { Collection, Entry } from '../config/collection.ts';
import type { SealedSecret, SecretBox, SecretPlace } from '../config/secret-box.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';
import type { AccessSettings } from './access-settings.ts';
import { documentCheck, isCount, isObject, isText, listOf, oneOf, orNull } from './document-check.ts';
import { InOrder } from './in-order.ts';
import { type Principal, personOf } from './principal.ts';
import { newId } from './secret-text.ts';

/*
 * Invariants:
 *  - a request is done at most once: it leaves `pending` before anything of it begins, durably.
 *  - whoever asks never counts as one who approves, whatever they log in with.
 *  - what is done is what was approved: the parameters are sealed with the request and cannot be changed.
 */

export const APPROVAL_STATES = ['pending', 'running', 'done', 'failed', 'denied'] as const;
export type ApprovalState = (typeof APPROVAL_STATES)[number];

/** Who took part, and as whom. */
export interface Participant {
  readonly person: string;
  readonly kind: Principal['kind'];
  /** Of the user or token. */
  readonly id: string;
  readonly name: string;
  readonly at: string;
}

export interface ApprovalRecord {
  readonly operation: string;
  /** JSON of the parameters. */
  readonly sealed: SealedSecret;
  /** The same for people, without what is secret. */
  readonly shown: Readonly<Record<string, unknown>>;
  readonly requestedBy: Participant;
  readonly expiresAtMs: number;
  readonly state: ApprovalState;
  readonly approvedBy: readonly Participant[];
  readonly deniedBy: Participant | null;
  /** Why it went ahead without a second person; null where it did not. */
  readonly brokenGlass: string | null;
  readonly decidedAt: string | null;
  /** The code of the error that it ended with. */
  readonly errorCode: string | null;
}

export const checkApprovalRecord: (value: unknown) => ApprovalRecord = documentCheck<ApprovalRecord>('approval', {
  operation: isText,
  sealed: isText,
  shown: isObject,
  requestedBy: isObject,
  expiresAtMs: isCount,
  state: oneOf(APPROVAL_STATES),
  approvedBy: listOf(isObject),
  deniedBy: orNull(isObject),
  brokenGlass: orNull(isText),
  decidedAt: orNull(isText),
  errorCode: orNull(isText),
});

export type ApprovalEntry = Entry<ApprovalRecord>;

/** Requests that wait, of everybody and of one person; what was decided is kept up to a number. */
export const MAX_PENDING = 200;
export const MAX_PENDING_OF_ONE = 50;
const MAX_DECIDED = 300;

export interface ApprovalRequest {
  readonly operation: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly shown: Readonly<Record<string, unknown>>;
}

/** What was approved by enough people, and is to be done now, as the one who asked. */
export interface ApprovedRequest {
  readonly id: string;
  readonly operation: string;
  readonly params: unknown;
  readonly requestedBy: Participant;
  readonly approvedBy: readonly string[];
}

/** What waits for a second person: asking, agreeing, refusing. Doing it is the caller's part (`api/guard`). */
export class Approvals {
  readonly #records: Collection<ApprovalRecord>;
  readonly #box: SecretBox;
  readonly #clock: Clock;
  readonly #settings: () => AccessSettings['approvals'];
  readonly #order = new InOrder();

  constructor(parts: {
    readonly records: Collection<ApprovalRecord>;
    readonly box: SecretBox;
    readonly clock: Clock;
    readonly settings: () => AccessSettings['approvals'];
  }) {
    this.#records = parts.records;
    this.#box = parts.box;
    this.#clock = parts.clock;
    this.#settings = parts.settings;
  }

  get isRequired(): boolean {
    return this.#settings().isRequired;
  }

  /** Newest first. A request that nobody decided in time is none any more. */
  list(): readonly ApprovalEntry[] {
    return this.#records
      .list()
      .filter((entry) => !this.#isLate(entry.value))
      .sort((a, b) => (a.value.requestedBy.at < b.value.requestedBy.at ? 1 : -1));
  }

  /** @throws NOT_FOUND */
  get(id: string): ApprovalEntry {
    const entry = this.#records.find(id);
    if (entry === undefined || this.#isLate(entry.value)) {
      throw new ApplianceError('NOT_FOUND', `there is no approval ${id}`);
    }
    return entry;
  }

  /** Keeps a request; the same one of the same person is there only once. @throws LIMIT_REACHED */
  request(by: Principal, request: ApprovalRequest): Promise<ApprovalEntry> {
    return this.#order.run(async () => {
      const wanted = JSON.stringify(request.params);
      const pending = this.list().filter(({ value }) => value.state === 'pending');
      const own = pending.filter(({ value }) => value.requestedBy.person === personOf(by));
      const same = own.find(
        ({ id, value }) =>
          value.operation === request.operation && this.#box.open(placeOf(id), value.sealed) === wanted,
      );
      if (same !== undefined) return same;
      if (pending.length >= MAX_PENDING || own.length >= MAX_PENDING_OF_ONE) {
        throw new ApplianceError('LIMIT_REACHED', `${own.length} requests of yours wait for approval already`);
      }
      await this.#prune();
      const id = newId();
      return this.#records.create(id, {
        operation: request.operation,
        sealed: this.#box.seal(placeOf(id), wanted),
        shown: request.shown,
        requestedBy: this.#participant(by),
        expiresAtMs: this.#clock.nowMs() + this.#settings().expireHours * 3_600_000,
        state: 'pending',
        approvedBy: [],
        deniedBy: null,
        brokenGlass: null,
        decidedAt: null,
        errorCode: null,
      });
    });
  }

  /**
   * Agrees. Settles with what is to be done now, or with undefined while more people have to agree. The owner of the appliance counts as a
   * second person only with a reason (`brokenGlass`): whoever may log in to its host could be the one who asked; and with a
   * reason needs nobody else.
   * @throws NOT_FOUND, FORBIDDEN for who asked or agreed already, CONFLICT when it was decided
   */
  approve(id: string, by: Principal, brokenGlass?: string): Promise<ApprovedRequest | undefined> {
    return this.#order.run(async () => {
      const { value } = this.get(id);
      this.#mayDecide(id, value, by);
      checkSecondPerson(value, by, brokenGlass);
      const approvedBy = [...value.approvedBy, this.#participant(by)];
      const isEnough = brokenGlass !== undefined || approvedBy.length + 1 >= this.#settings().persons;
      await this.#records.update(id, (now) => ({
        ...now,
        approvedBy,
        ...(isEnough ? { state: 'running', decidedAt: this.#nowIso() } : {}),
        brokenGlass: brokenGlass ?? now.brokenGlass,
      }));
      if (!isEnough) return undefined;
      return {
        id,
        operation: value.operation,
        params: JSON.parse(this.#box.open(placeOf(id), value.sealed)) as unknown,
        requestedBy: value.requestedBy,
        approvedBy: approvedBy.map(({ name }) => name),
      };
    });
  }

  /** Refuses; whoever asked may take the request back in this way. @throws NOT_FOUND, CONFLICT */
  deny(id: string, by: Principal): Promise<ApprovalEntry> {
    return this.#order.run(async () => {
      const { value } = this.get(id);
      this.#mayDecide(id, value, by);
      const deniedBy = this.#participant(by);
      return this.#records.update(id, (now) => ({ ...now, state: 'denied', deniedBy, decidedAt: deniedBy.at }));
    });
  }

  /** How what was approved ended; null: well. */
  async finish(id: string, errorCode: string | null): Promise<void> {
    const state = errorCode === null ? 'done' : 'failed';
    await this.#records.update(id, (now) => ({ ...now, state, errorCode }));
  }

  /** What ran when an earlier process ended is not begun again: nobody knows how far it was. */
  async settleInterrupted(): Promise<void> {
    for (const { id, value } of this.#records.list()) if (value.state === 'running') await this.finish(id, 'ABORTED');
  }

  #mayDecide(id: string, { state }: ApprovalRecord, by: Principal): void {
    if (by.kind === 'policy' || by.kind === 'appliance') throw new ApplianceError('FORBIDDEN', 'only people decide');
    if (state !== 'pending') throw new ApplianceError('CONFLICT', `approval ${id} is decided already: ${state}`);
  }

  #isLate({ state, expiresAtMs }: ApprovalRecord): boolean {
    return state === 'pending' && this.#clock.nowMs() >= expiresAtMs;
  }

  async #prune(): Promise<void> {
    const late = this.#records.list().filter(({ value }) => this.#isLate(value));
    const decided = this.list().filter(({ value }) => value.state !== 'pending' && value.state !== 'running');
    for (const { id } of [...late, ...decided.slice(MAX_DECIDED)]) await this.#records.delete(id);
  }

  #participant(by: Principal): Participant {
    return { person: personOf(by), kind: by.kind, id: by.id, name: by.name, at: this.#nowIso() };
  }

  #nowIso(): string {
    return new Date(this.#clock.nowMs()).toISOString();
  }
}

function checkSecondPerson(
  { requestedBy, approvedBy }: ApprovalRecord,
  by: Principal,
  brokenGlass: string | undefined,
): void {
  if (brokenGlass !== undefined) {
    if (by.kind === 'local') return;
    throw new ApplianceError('FORBIDDEN', 'only the owner of the appliance can go without a second person');
  }
  if (by.kind === 'local') {
    throw new ApplianceError('FORBIDDEN', 'the owner of the appliance counts as a second person only with a reason', {
      hint: 'Use `understudy approval approve ID --break-glass REASON`; the audit log says so.',
    });
  }
  const person = personOf(by);
  if (person === requestedBy.person || person === 'local') {
    throw new ApplianceError('FORBIDDEN', 'somebody else has to approve it');
  }
  if (approvedBy.some((one) => one.person === person)) {
    throw new ApplianceError('FORBIDDEN', 'you approved it already; somebody else has to, too');
  }
}

function placeOf(id: string): SecretPlace {
  return { collection: 'approvals', id, field: 'sealed' };
}
