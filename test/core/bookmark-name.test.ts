// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { checkBookmarkName } from '../../appliance/core/bookmark-name.ts';
import { suite } from '../support/suite.ts';

const test = suite('names of bookmarks');

test('a name is what can be shown and typed again', () => {
  for (const name of ['before the upgrade', `it's "quoted" \\ $HOME`, 'vor dem Ändern ✓', '@', 'x'.repeat(200)]) {
    checkBookmarkName(name);
  }
  for (const name of ['', ' ', 'x'.repeat(201), 'two\nlines', 'tab\t', '\u001b[31mred', '\u2028', '\ud800']) {
    assert.throws(() => checkBookmarkName(name), { code: 'BAD_ARGUMENT' }, JSON.stringify(name));
  }
});
