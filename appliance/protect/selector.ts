// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';

/** What of a machine's history is meant. Times are microseconds since the Unix epoch. */
export type MomentSelector =
  | { readonly kind: 'latest' }
  /** The recovery point that stands `count` before the newest. */
  | { readonly kind: 'earlier-point'; readonly count: number }
  /** Relative: it was counted from now. */
  | { readonly kind: 'time'; readonly timeUs: number; readonly isRelative?: true }
  | { readonly kind: 'bookmark'; readonly name: string }
  | { readonly kind: 'sequence'; readonly sequence: number };

/** What an expression on the command line means, before anybody has looked whether it is there. */
export type Selector =
  | { readonly kind: 'id'; readonly prefix: string }
  | { readonly kind: 'machine'; readonly machine: string; readonly moment: MomentSelector };

const HINT =
  'Use NAME@latest, NAME@-1, NAME@2026-11-21T14:00 (local time; add Z for UTC), NAME@"5 minutes ago", ' +
  'NAME@bookmark:"before the upgrade", or NAME@seq:123456.';
const DAY_MS = 86_400_000;
const UNIT_SECONDS: Readonly<Record<string, number>> = { second: 1, minute: 60, hour: 3600, day: 86_400 };

/**
 * Reads `ID` (or the beginning of one), `NAME@latest`, `NAME@-N`, `NAME@TIME`, `NAME@"N minutes ago"`, `NAME@now`,
 * `NAME@bookmark:"TEXT"` and `NAME@seq:N`. Quotes may be left out, since shells remove them. A machine's name may hold an
 * `@`: a quoted moment begins at the first `@` before a quote, a bookmark at the first `@bookmark:`, any other moment at
 * the last `@`. Within quotes `\"` is a quote and `\\` a backslash. `nowMs` is what `ago` counts from.
 * @throws ApplianceError BAD_ARGUMENT
 */
export function parseSelector(expression: string, nowMs: number): Selector {
  const quoted = /^(.*?)@(bookmark:)?"((?:[^"\\]|\\["\\])*)"$/su.exec(expression);
  if (quoted !== null) {
    const [, machine = '', bookmark, text = ''] = quoted;
    const plain = text.replaceAll(/\\(["\\])/g, '$1');
    return ofMachine(machine, bookmark === undefined ? parseMoment(plain, nowMs) : parseBookmark(plain));
  }
  const mark = expression.indexOf('@bookmark:');
  if (mark !== -1) {
    return ofMachine(expression.slice(0, mark), parseBookmark(expression.slice(mark + '@bookmark:'.length)));
  }
  const at = expression.lastIndexOf('@');
  if (at === -1) return { kind: 'id', prefix: expression };
  return ofMachine(expression.slice(0, at), parseMoment(expression.slice(at + 1), nowMs));
}

/** A moment alone, as `--around` and `--from` take it. @throws ApplianceError BAD_ARGUMENT */
export function parseMoment(text: string, nowMs: number): MomentSelector {
  if (text === 'latest') return { kind: 'latest' };
  if (text === 'now') return { kind: 'time', timeUs: Math.floor(nowMs * 1000), isRelative: true };
  if (text.startsWith('bookmark:')) return parseBookmark(text.slice('bookmark:'.length));
  const earlier = /^-(\d{1,9})$/.exec(text);
  if (earlier !== null) return { kind: 'earlier-point', count: Number(earlier[1]) };
  const sequence = /^seq:(\d{1,16})$/.exec(text);
  if (sequence !== null) return parseSequence(Number(sequence[1]), text);
  const agoUs = parseAgo(text, nowMs);
  if (agoUs !== undefined) return { kind: 'time', timeUs: agoUs, isRelative: true };
  const timeUs = parseTime(text);
  if (timeUs === undefined) throw noMoment(text);
  return { kind: 'time', timeUs };
}

/** A time alone, in microseconds since the Unix epoch. @throws ApplianceError BAD_ARGUMENT */
export function parseTimeUs(text: string, nowMs: number): number {
  const moment = parseMoment(text, nowMs);
  if (moment.kind === 'time') return moment.timeUs;
  throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no time`, {
    hint: 'Use 2026-11-21T14:00 (local time; add Z for UTC), "5 minutes ago", or now.',
  });
}

/** The text of a moment, such that `parseSelector` reads it again behind `NAME@`. */
export function formatMoment(moment: MomentSelector): string {
  switch (moment.kind) {
    case 'latest':
      return 'latest';
    case 'earlier-point':
      return `-${moment.count}`;
    case 'time':
      return formatTimeUs(moment.timeUs);
    case 'bookmark':
      return `bookmark:"${moment.name.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
    case 'sequence':
      return `seq:${moment.sequence}`;
  }
}

/** ISO 8601 in UTC with microseconds, where there are any: `2026-11-21T10:31:07.250Z`, `2026-11-21T10:31:07.250123Z`. */
export function formatTimeUs(timeUs: number): string {
  const iso = new Date(Math.floor(timeUs / 1000)).toISOString();
  const rest = timeUs - Math.floor(timeUs / 1000) * 1000;
  return rest === 0 ? iso : `${iso.slice(0, -1)}${String(rest).padStart(3, '0')}Z`;
}

function ofMachine(machine: string, moment: MomentSelector): Selector {
  if (machine === '') throw new ApplianceError('BAD_ARGUMENT', 'there is no name before the @', { hint: HINT });
  return { kind: 'machine', machine, moment };
}

function parseBookmark(text: string): MomentSelector {
  const whole = /^"((?:[^"\\]|\\["\\])*)"$/su.exec(text);
  const name = whole === null ? text : (whole[1] ?? '').replaceAll(/\\(["\\])/g, '$1');
  if (name === '') throw new ApplianceError('BAD_ARGUMENT', 'a bookmark has a name', { hint: HINT });
  return { kind: 'bookmark', name };
}

function parseSequence(sequence: number, text: string): MomentSelector {
  if (!Number.isSafeInteger(sequence) || sequence === 0) throw noMoment(text);
  return { kind: 'sequence', sequence };
}

function parseAgo(text: string, nowMs: number): number | undefined {
  const found = /^(\d{1,9}) (second|minute|hour|day)s? ago$/.exec(text);
  if (found === null) return undefined;
  const [, count = '', unit = ''] = found;
  const timeUs = Math.floor(nowMs * 1000) - Number(count) * (UNIT_SECONDS[unit] ?? 0) * 1e6;
  if (timeUs < 0) throw noMoment(text);
  return timeUs;
}

/** Year, month from 0, day, hour, minute, second. */
type WallTime = readonly [number, number, number, number, number, number];

const TIME = /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?)?(?: ?(Z|[+-](\d\d):?(\d\d)))?$/i;

/** ISO 8601 and what `understudy` prints; without a zone it is local time; undefined when it is no time. */
function parseTime(text: string): number | undefined {
  const found = TIME.exec(text);
  if (found === null) return undefined;
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = found.slice(1, 7).map(Number).map(orZero);
  const wanted = [year, month - 1, day, hour, minute, second] as const;
  const zone = found[8];
  const micros = Number((found[7] ?? '').padEnd(6, '0'));
  const isLocal = zone === undefined;
  const timeMs = isLocal ? new Date(...wanted).getTime() : Date.UTC(...wanted);
  // A date that does not exist (30 February, an hour that daylight saving skips) would mean another one.
  if (!isSame(new Date(timeMs), wanted, isLocal)) return undefined;
  if (isLocal) refuseTwice(timeMs, wanted, text);
  const [zoneHours, zoneMinutes] = [Number(found[9] ?? 0), Number(found[10] ?? 0)];
  const offsetMs = isLocal ? 0 : offsetOf(zone, zoneHours, zoneMinutes);
  const timeUs = (timeMs - offsetMs) * 1000 + micros;
  const isMeant = zoneHours <= 14 && zoneMinutes < 60 && timeUs >= 0 && Number.isSafeInteger(timeUs);
  return isMeant ? timeUs : undefined;
}

/** When daylight saving ends, an hour comes twice: neither of the two may be taken for the other. */
function refuseTwice(timeMs: number, wanted: WallTime, text: string): void {
  const offsets = [timeMs - DAY_MS, timeMs + DAY_MS].map((one) => new Date(one).getTimezoneOffset() * 60_000);
  const times = offsets.map((offsetMs) => Date.UTC(...wanted) + offsetMs);
  const [first, second] = times.filter((one) => isSame(new Date(one), wanted, true)).sort((a, b) => a - b);
  if (first === undefined || second === undefined || first === second) return;
  throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} came twice, when the clocks were set back`, {
    hint: `Say which one: ${formatTimeUs(first * 1000)} or ${formatTimeUs(second * 1000)}.`,
  });
}

function orZero(number: number): number {
  return Number.isNaN(number) ? 0 : number;
}

function offsetOf(zone: string, hours: number, minutes: number): number {
  const size = (hours * 60 + minutes) * 60_000;
  return zone.startsWith('-') ? -size : size;
}

function isSame(date: Date, wanted: WallTime, isLocal: boolean): boolean {
  const found = isLocal
    ? [date.getFullYear(), date.getMonth(), date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()]
    : [
        date.getUTCFullYear(),
        date.getUTCMonth(),
        date.getUTCDate(),
        date.getUTCHours(),
        date.getUTCMinutes(),
        date.getUTCSeconds(),
      ];
  return found.every((part, index) => part === wanted[index]);
}

function noMoment(text: string): ApplianceError {
  return new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no moment`, { hint: HINT });
}
