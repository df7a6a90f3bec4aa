// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';

/** Items of one page, at most and when nothing is said. */
export const MAX_PAGE_ITEMS = 1_000;
export const DEFAULT_PAGE_ITEMS = 100;

const MAX_CURSOR_CHARACTERS = 2_000;

export interface Page {
  readonly items: readonly unknown[];
  /** The `after` of the next page; null at the end. */
  readonly next: string | null;
  /** Items on all pages. */
  readonly total: number;
}

type Item = Readonly<Record<string, unknown>>;

/** Members that name an item, the first that there is. */
const ID_MEMBERS = ['id', 'name', 'machineId', 'point'] as const;

/** Where a page ended. */
interface Cursor {
  readonly sort: string;
  readonly id: string;
  readonly value: unknown;
  /** Items up to there, for lists in an order of their own. */
  readonly count: number;
}

/**
 * A page of a list. `query` is `limit`, `after`, `sort` (a member, with `-` before it for the other direction) and members that items
 * must have (`state=running`). The order is total: equal ones stand by their id. Items that come and go between two pages move no
 * other item; without `sort` the order is the operation's own.
 * @throws BAD_ARGUMENT
 */
export function pageOf(list: readonly unknown[], query: Readonly<Record<string, string>>): Page {
  const { limit, after, sort = '', ...filters } = query;
  const items = list.map((item) => item as Item);
  const size = limitOf(limit);
  const fitting = filtered(items, filters);
  const sorted = sort === '' ? fitting : sortedBy(fitting, sort);
  const cursor = after === undefined ? undefined : decodeCursor(after, sort);
  const from = cursor === undefined ? 0 : startAfter(sorted, cursor);
  const page = sorted.slice(from, from + size);
  const last = page.at(-1);
  const isEnd = last === undefined || from + page.length >= sorted.length;
  const next = isEnd
    ? null
    : encodeCursor({ sort, id: idOf(last), value: last[memberOf(sort)] ?? null, count: from + page.length });
  return { items: page, next, total: sorted.length };
}

function limitOf(text: string | undefined): number {
  if (text === undefined) return DEFAULT_PAGE_ITEMS;
  const limit = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= MAX_PAGE_ITEMS) return limit;
  throw new ApplianceError('BAD_ARGUMENT', `limit must be from 1 to ${MAX_PAGE_ITEMS}`);
}

function filtered(items: readonly Item[], filters: Readonly<Record<string, string>>): readonly Item[] {
  const wanted = Object.entries(filters);
  for (const [member] of wanted) requireMember(items, member);
  return items.filter((item) => wanted.every(([member, text]) => textOf(item[member]) === text));
}

function sortedBy(items: readonly Item[], sort: string): readonly Item[] {
  const member = memberOf(sort);
  requireMember(items, member);
  const sign = sort.startsWith('-') ? -1 : 1;
  return items.toSorted(
    (left, right) => sign * compareValues(left[member], right[member]) || compareValues(idOf(left), idOf(right)),
  );
}

/** A list without items has every member. */
function requireMember(items: readonly Item[], member: string): void {
  if (items.length === 0) return;
  if (items.some((item) => Object.hasOwn(item, member) && isScalar(item[member]))) return;
  throw new ApplianceError('BAD_ARGUMENT', `the items have no member ${JSON.stringify(member)} to choose or sort by`);
}

function startAfter(items: readonly Item[], cursor: Cursor): number {
  if (cursor.sort === '') {
    const index = items.findIndex((item) => idOf(item) === cursor.id);
    return index === -1 ? cursor.count : index + 1;
  }
  const member = memberOf(cursor.sort);
  const sign = cursor.sort.startsWith('-') ? -1 : 1;
  const index = items.findIndex((item) => {
    const order = sign * compareValues(item[member], cursor.value) || compareValues(idOf(item), cursor.id);
    return order > 0;
  });
  return index === -1 ? items.length : index;
}

function memberOf(sort: string): string {
  return sort.replace(/^-/, '');
}

function idOf(item: Item): string {
  for (const member of ID_MEMBERS) {
    const value = item[member];
    if (typeof value === 'string') return value;
  }
  return JSON.stringify(item).slice(0, MAX_CURSOR_CHARACTERS / 4);
}

/** Nothing first, then numbers and truth values, then texts by their code points. */
function compareValues(left: unknown, right: unknown): number {
  const ranks = rankOf(left) - rankOf(right);
  if (ranks !== 0) return ranks;
  if (typeof left === 'string' && typeof right === 'string') return compare(left, right);
  return compare(Number(left ?? 0), Number(right ?? 0));
}

function compare<T extends string | number>(left: T, right: T): number {
  if (left === right) return 0;
  return left < right ? -1 : 1;
}

function rankOf(value: unknown): number {
  if (typeof value === 'string') return 2;
  return typeof value === 'number' || typeof value === 'boolean' ? 1 : 0;
}

function isScalar(value: unknown): boolean {
  return typeof value !== 'object' || value === null;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
}

function encodeCursor(cursor: Cursor): string {
  return Buffer.from(JSON.stringify([cursor.sort, cursor.id, cursor.value, cursor.count])).toString('base64url');
}

function decodeCursor(text: string, sort: string): Cursor {
  const wrong = new ApplianceError('BAD_ARGUMENT', 'after is not what a page of this list gave as next');
  if (text.length > 4 * MAX_CURSOR_CHARACTERS) throw wrong;
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(text, 'base64url').toString('utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) throw wrong;
    throw error;
  }
  if (!Array.isArray(value) || value.length !== 4) throw wrong;
  const [wasSort, id, last, count] = value as readonly unknown[];
  if (wasSort !== sort || typeof id !== 'string' || !isScalar(last)) throw wrong;
  if (typeof count !== 'number' || !Number.isSafeInteger(count) || count < 0) throw wrong;
  return { sort, id, value: last, count };
}
