// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { BookmarkQueue } from '../../../appliance/protect/continuous/bookmark-queue.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';

const test = suite('bookmarks of intervals');

test('a guest that is frozen for a bookmark does not wait for an interval that takes long, nor is that one marked', async () => {
  const queue = new BookmarkQueue();
  const frozen = rejectsWith(queue.add('late', 'file-system-consistent', 1), 'TIMED_OUT');
  const batch = queue.take();
  await frozen;
  const marked: string[] = [];
  await batch.mark((name) => {
    marked.push(name);
    return Promise.resolve({ sequence: 1, timeUs: 1 });
  });
  assert.deepEqual(marked, []);
});
