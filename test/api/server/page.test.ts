// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { MAX_PAGE_ITEMS, type Page, pageOf } from '../../../appliance/api/server/page.ts';
import { suite } from '../../support/suite.ts';

const test = suite('pages of a list');

interface Item {
  readonly id: string;
  readonly state: string;
  readonly size: number | null;
}

const items: fc.Arbitrary<readonly Item[]> = fc.uniqueArray(
  fc.record({
    id: fc.string({ minLength: 1, maxLength: 4 }),
    state: fc.constantFrom('a', 'b', 'c'),
    size: fc.option(fc.integer({ min: -3, max: 3 })),
  }),
  { selector: ({ id }) => id, maxLength: 30 },
);

/** All pages one after the other; `between` may change the list. */
function allPages(
  list: readonly Item[],
  query: Readonly<Record<string, string>>,
  between: (list: readonly Item[]) => readonly Item[] = (same) => same,
): readonly Item[] {
  const found: Item[] = [];
  let current = list;
  for (let next: string | null = ''; next !== null; ) {
    const page: Page = pageOf(current, { ...query, ...(next === '' ? {} : { after: next }) });
    found.push(...(page.items as Item[]));
    next = page.next;
    current = between(current);
  }
  return found;
}

test('the pages together are the list, in its own order', () => {
  fc.assert(
    fc.property(items, fc.integer({ min: 1, max: 7 }), (list, limit) => {
      assert.deepEqual(allPages(list, { limit: String(limit) }), list);
      assert.equal(pageOf(list, {}).total, list.length);
    }),
    { numRuns: 300 },
  );
});

test('sorted pages together are the sorted list, in both directions, equal ones by their id', () => {
  const compare = (left: Item, right: Item): number => {
    const [a, b] = [left.size ?? Number.NEGATIVE_INFINITY, right.size ?? Number.NEGATIVE_INFINITY];
    return a === b ? 0 : Math.sign(a - b);
  };
  const byId = (left: Item, right: Item): number => (left.id < right.id ? -1 : 1);
  fc.assert(
    fc.property(items, fc.integer({ min: 1, max: 7 }), fc.boolean(), (list, limit, isDescending) => {
      const sign = isDescending ? -1 : 1;
      const expected = list.toSorted((left, right) => sign * compare(left, right) || byId(left, right));
      const sort = isDescending ? '-size' : 'size';
      assert.deepEqual(allPages(list, { limit: String(limit), sort }), expected);
    }),
    { numRuns: 300 },
  );
});

test('items that come and go between pages make no other item appear twice or be left out', () => {
  fc.assert(
    fc.property(items, fc.integer({ min: 1, max: 5 }), fc.nat({ max: 30 }), (list, limit, gone) => {
      const kept = list.filter((_, index) => index !== gone);
      const added: Item = { id: 'added-later', state: 'a', size: 0 };
      const found = allPages(list, { limit: String(limit), sort: 'size' }, () => [...kept, added]);
      const ids = found.map(({ id }) => id).filter((id) => id !== added.id && id !== list[gone]?.id);
      assert.deepEqual(ids.toSorted(), kept.map(({ id }) => id).toSorted());
    }),
    { numRuns: 300 },
  );
});

test('members choose items, and the total is of those', () => {
  fc.assert(
    fc.property(items, (list) => {
      const chosen = list.filter(({ state }) => state === 'b');
      const page = pageOf(list, { state: 'b', limit: '1000' });
      assert.deepEqual([page.items, page.total, page.next], [chosen, chosen.length, null]);
    }),
    { numRuns: 100 },
  );
});

const LIST: readonly Item[] = [
  { id: 'x', state: 'a', size: 1 },
  { id: 'y', state: 'b', size: null },
];

for (const query of [
  { limit: '0' },
  { limit: String(MAX_PAGE_ITEMS + 1) },
  { limit: 'many' },
  { limit: '1.5' },
  { sort: 'colour' },
  { sort: '__proto__' },
  { colour: 'red' },
  { after: 'nonsense' },
  { after: Buffer.from('[1,2,3]').toString('base64url') },
  { after: Buffer.from('["size","x",1,1]').toString('base64url') },
  { after: Buffer.from('["","x",{},1]').toString('base64url') },
  { after: Buffer.from('["","x",1,-1]').toString('base64url') },
  { after: 'A'.repeat(100_000) },
]) {
  test(`the query ${JSON.stringify(query).slice(0, 60)} is refused`, () => {
    assert.throws(() => pageOf(LIST, query), { code: 'BAD_ARGUMENT' });
  });
}

test('numbers and truth values are chosen by how JSON writes them', () => {
  const list = [
    { id: 'x', held: true, size: 5 },
    { id: 'y', held: false, size: 6 },
    { id: 'z', held: true, size: null },
  ];
  const idsOf = (query: Readonly<Record<string, string>>): unknown =>
    pageOf(list, query).items.map((item) => (item as { id: string }).id);
  assert.deepEqual(idsOf({ held: 'true' }), ['x', 'z']);
  assert.deepEqual(idsOf({ size: '6' }), ['y']);
  assert.deepEqual(idsOf({ size: 'null' }), ['z']);
});
