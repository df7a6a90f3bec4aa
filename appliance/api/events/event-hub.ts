// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { type Clock, systemClock } from '../../core/clock.ts';
import { EVENT_TYPES, type EventType } from './event-types.ts';

/** Events that are kept for those who come back. */
export const MAX_KEPT_EVENTS = 10_000;

export interface ApplianceEvent {
  /** `EPOCH-NUMBER`; numbers count up within an epoch, which ends with the process. */
  readonly id: string;
  readonly type: EventType;
  readonly at: string;
  /** Of the machine that it concerns; null for what concerns the appliance or several machines. */
  readonly machineId: string | null;
  readonly data: unknown;
}

export interface Resumption {
  /** What happened since, as far as it is known. */
  readonly events: readonly ApplianceEvent[];
  /** False when something is missing between the event that was named and these. */
  readonly isComplete: boolean;
}

/** What happens in the appliance, told to all who listen. Events are numbered without gaps, and the newest are kept. */
export class EventHub {
  readonly #epoch: string = randomBytes(4).toString('hex');
  readonly #clock: Clock;
  readonly #kept: ApplianceEvent[] = [];
  readonly #listeners = new Set<(event: ApplianceEvent) => void>();
  #published = 0;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  publish(type: EventType, data: unknown, machineId: string | null = null): void {
    this.#published += 1;
    const at = new Date(this.#clock.nowMs()).toISOString();
    const event: ApplianceEvent = { id: `${this.#epoch}-${this.#published}`, type, at, machineId, data };
    this.#kept.push(event);
    if (this.#kept.length >= 2 * MAX_KEPT_EVENTS) this.#kept.splice(0, this.#kept.length - MAX_KEPT_EVENTS);
    for (const listener of this.#listeners) listener(event);
  }

  listen(listener: (event: ApplianceEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** The id of the newest event. */
  newest(): string {
    return `${this.#epoch}-${this.#published}`;
  }

  /** Everything after the event of that id. */
  since(id: string): Resumption {
    const [epoch, digits = ''] = id.split('-');
    const number = /^\d{1,15}$/.test(digits) ? Number(digits) : Number.NaN;
    const oldest = this.#published - this.#kept.length;
    if (epoch !== this.#epoch || !(number >= oldest && number <= this.#published)) {
      return { events: [], isComplete: false };
    }
    return { events: this.#kept.slice(number - oldest), isComplete: true };
  }
}

export function isEventType(text: string): text is EventType {
  return (EVENT_TYPES as readonly string[]).includes(text);
}
