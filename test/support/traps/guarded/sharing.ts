// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { suite } from '../../suite.ts';

const test = suite('sharing');
let made = 0;
const thing = test.share((t) => {
  const number = ++made;
  console.log(`made ${number}`);
  t.use({ close: () => console.log(`disposed ${number}`) });
  return Promise.resolve(number);
});
test('makes it', async () => assert.equal(await thing(), 1));
test('has the same', async () => assert.equal(await thing(), 1));
test('fails', async () => assert.equal(await thing(), 0));
test('has a new one', async () => assert.equal(await thing(), 2));
