// SPDX-License-Identifier: Apache-2.0
import { DateTime, IANAZone } from 'luxon';
import { ApplianceError } from '../../core/errors.ts';

const WINDOW = /^([01]\d|2[0-3]):([0-5]\d)\s*[-–]\s*([01]\d|2[0-3]):([0-5]\d)$/;
const MINUTE_MS = 60_000;
const DAY_MINUTES = 1440;

/**
 * The hours of the day in which runs may begin, by the clock of a time zone: `22:00-06:00`. From the first time on, up to the second and
 * without it. What the clock shows decides, also on days on which it is changed.
 */
export class DayWindow {
  readonly text: string;
  readonly #zone: IANAZone;
  readonly #from: number;
  readonly #to: number;

  private constructor(text: string, zone: IANAZone, [from, to]: readonly [number, number]) {
    this.text = text;
    this.#zone = zone;
    this.#from = from;
    this.#to = to;
  }

  /** @throws ApplianceError BAD_ARGUMENT */
  static parse(text: string, timeZone: string): DayWindow {
    const found = WINDOW.exec(text.trim())?.slice(1).map(Number);
    if (found !== undefined && IANAZone.isValidZone(timeZone)) {
      const [fromHour = 0, fromMinute = 0, toHour = 0, toMinute = 0] = found;
      const [from, to] = [fromHour * 60 + fromMinute, toHour * 60 + toMinute];
      if (from !== to) return new DayWindow(text.trim(), IANAZone.create(timeZone), [from, to]);
    }
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no window`, {
      hint: 'Give the hours in which runs may begin, for example 22:00-06:00.',
    });
  }

  isOpen(atMs: number): boolean {
    const minute = this.#minuteOfDay(atMs);
    return this.#from < this.#to
      ? minute >= this.#from && minute < this.#to
      : minute >= this.#from || minute < this.#to;
  }

  /** The first moment, from this one on, at which it is open. */
  opensAt(atMs: number): number {
    if (this.isOpen(atMs)) return atMs;
    const minute = this.#minuteOfDay(atMs);
    const ahead = (this.#from - minute + DAY_MINUTES) % DAY_MINUTES;
    const local = DateTime.fromMillis(atMs, { zone: this.#zone });
    const day = local.plus({ days: minute < this.#from ? 0 : 1 });
    const opening = day
      .set({ hour: Math.floor(this.#from / 60), minute: this.#from % 60, second: 0, millisecond: 0 })
      .toMillis();
    let opensMs = opening > atMs ? opening : atMs + ahead * MINUTE_MS;
    // A first time that the clocks leap over: it is open as soon as they have.
    while (opensMs - MINUTE_MS > atMs && this.isOpen(opensMs - MINUTE_MS)) opensMs -= MINUTE_MS;
    return opensMs;
  }

  #minuteOfDay(atMs: number): number {
    const localMinutes = Math.floor(atMs / MINUTE_MS) + this.#zone.offset(atMs);
    return ((localMinutes % DAY_MINUTES) + DAY_MINUTES) % DAY_MINUTES;
  }
}
