// SPDX-License-Identifier: Apache-2.0
import { stripVTControlCharacters } from 'node:util';

/** Numbers and words as people read them. All pure; times are shown in the process's time zone. */

/** As long as nobody has millions of points, this many digits stand for one of them. */
const MIN_SHORT_ID = 8;

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** Three significant digits with a binary unit (`5.31 GiB`, `64 KiB`); whole numbers stay whole. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  // 1023.9 rounds to four digits of a unit that the next one says in three.
  if (Math.round(value) >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${threeDigits(value)} ${BYTE_UNITS[unit]}`;
}

/** `412 MiB/s`. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

/** `0.82 s`, `12.4 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 59_950) return `${threeDigits(milliseconds / 1000)} s`;
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 3600) return two(Math.floor(seconds / 60), 'min', seconds % 60, 's');
  const minutes = Math.round(seconds / 60);
  if (minutes < 24 * 60) return two(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
  const hours = Math.round(minutes / 60);
  return two(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

/** `1:05`, `1:02:05`: time that is left, for a line that is drawn again and again. */
export function formatCountdown(milliseconds: number): string {
  const seconds = Math.max(0, Math.ceil(milliseconds / 1000));
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const shown = parts[0] === 0 ? parts.slice(1) : parts;
  return shown.map((part, index) => (index === 0 ? String(part) : String(part).padStart(2, '0'))).join(':');
}

/** ISO 8601 in UTC as local time with its offset: `2026-11-21 15:04:05 +0100`. */
export function formatTime(iso: string): string {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return plain(iso);
  const offset = -time.getTimezoneOffset();
  const sign = offset < 0 ? '-' : '+';
  return `${formatLocalTime(iso)} ${sign}${pad(Math.floor(Math.abs(offset) / 60))}${pad(Math.abs(offset) % 60)}`;
}

/** The same without the offset, for columns: `2026-11-21 15:04:05`. */
export function formatLocalTime(iso: string): string {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return plain(iso);
  const date = `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())}`;
  return `${date} ${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}`;
}

/** To the minute, as clocks of a time zone show it: `2026-11-21 15:04`. */
export function formatTimeIn(iso: string, timeZone: string): string {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return plain(iso);
  const parts = new Intl.DateTimeFormat('en-US-u-hc-h23', {
    timeZone,
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
  }).formatToParts(time);
  const of = (wanted: Intl.DateTimeFormatPartTypes): string => parts.find(({ type }) => type === wanted)?.value ?? '';
  return `${of('year')}-${of('month')}-${of('day')} ${of('hour')}:${of('minute')}`;
}

/** `3 minutes ago`; empty for the future, which a clock that was set back makes. */
export function formatAge(iso: string, nowMs: number): string {
  const seconds = Math.floor((nowMs - new Date(iso).getTime()) / 1000);
  if (Number.isNaN(seconds) || seconds < 0) return '';
  if (seconds < 60) return `${count(seconds, 'second')} ago`;
  if (seconds < 3600) return `${count(Math.floor(seconds / 60), 'minute')} ago`;
  if (seconds < 48 * 3600) return `${count(Math.floor(seconds / 3600), 'hour')} ago`;
  return `${count(Math.floor(seconds / 86_400), 'day')} ago`;
}

/** Beginnings of ids by which they can be told apart, all of one length and at least `MIN_SHORT_ID` digits. */
export function shortIds(ids: readonly string[]): (id: string) => string {
  const distinct = new Set(ids);
  let length = MIN_SHORT_ID;
  while (new Set([...distinct].map((id) => id.slice(0, length))).size < distinct.size) length += 1;
  return (id) => id.slice(0, length);
}

/** `1 disk`, `12,345 chunks`. */
export function count(number: number, noun: string, plural: string = `${noun}s`): string {
  return `${number.toLocaleString('en-US')} ${number === 1 ? noun : plural}`;
}

/** `×2.41`; a dash when there is nothing to compare with. */
export function formatRatio(of: number, to: number): string {
  return of === 0 || to === 0 ? '–' : `× ${threeDigits(of / to)}`;
}

/** Text from outside without anything that a terminal would obey. */
export function plain(text: string): string {
  return stripVTControlCharacters(text).replace(/\p{Cc}/gu, '?');
}

/** A sentence with its first letter raised, for text that begins a line. */
export function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function threeDigits(value: number): string {
  const digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return value.toFixed(digits).replace(/\.0+$/, '');
}

function two(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

function pad(number: number): string {
  return String(number).padStart(2, '0');
}
