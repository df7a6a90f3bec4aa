// SPDX-License-Identifier: Apache-2.0

const LOCAL = /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(\.\d{1,6})?)?)?$/;
const DAY_MS = 86_400_000;

/**
 * A local time with its offset: the service reads it perhaps in another time zone than that in which it was typed. Other texts, and
 * times that come twice or never, stay as they are: the service says what is wrong with them.
 */
export function zonedTime(text: string): string {
  const found = LOCAL.exec(text);
  if (found === null) return text;
  const [, year = '', month = '', day = '', hour = '00', minute = '00', second = '00', fraction = ''] = found;
  const wall = Date.UTC(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second));
  const shown = `${year}-${month}-${day}T${hour}:${minute}:${second}`;
  // 30 February would be another day.
  if (!new Date(wall).toISOString().startsWith(shown)) return text;
  const offsets = [wall - DAY_MS, wall + DAY_MS].map((ms) => -new Date(ms).getTimezoneOffset());
  const fitting = new Set(offsets.filter((offset) => wallOf(wall - offset * 60_000) === wall));
  const [offset] = fitting;
  if (offset === undefined || fitting.size > 1 || !Number.isInteger(offset)) return text;
  const two = (number: number): string => String(number).padStart(2, '0');
  const size = Math.abs(offset);
  const zone = `${offset < 0 ? '-' : '+'}${two(Math.floor(size / 60))}:${two(size % 60)}`;
  return `${shown}${fraction}${zone}`;
}

/** The same for the time in `NAME@TIME`. */
export function zonedPoint(expression: string): string {
  const at = expression.lastIndexOf('@');
  if (at === -1 || expression.includes('@bookmark:')) return expression;
  const time = expression.slice(at + 1).replace(/^"(.*)"$/, '$1');
  const zoned = zonedTime(time);
  return zoned === time ? expression : `${expression.slice(0, at)}@${zoned}`;
}

/** What a clock on the wall shows at a time, as if it were UTC. */
function wallOf(timeMs: number): number {
  const date = new Date(timeMs);
  return Date.UTC(
    date.getFullYear(),
    date.getMonth(),
    date.getDate(),
    date.getHours(),
    date.getMinutes(),
    date.getSeconds(),
  );
}

/** Parameters of an operation with every local time in its own zone. */
export function zonedParams<Params extends object>(operation: string, params: Params): Params {
  const zoned: Record<string, unknown> = Object.fromEntries(Object.entries(params));
  const change = (key: string, zone: (text: string) => string): void => {
    const value = zoned[key];
    if (typeof value === 'string') zoned[key] = zone(value);
  };
  change('point', zonedPoint);
  change('around', zonedTime);
  change('at', zonedTime);
  change('until', zonedTime);
  // Elsewhere they are places.
  if (operation === 'timeline') for (const key of ['from', 'to']) change(key, zonedTime);
  return zoned as Params;
}
