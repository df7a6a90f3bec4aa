// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { type Bookmarked, bookmarkFrozen } from '../../appliance/cbt/bookmark.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import { suite } from '../support/suite.ts';

const test = suite('bookmarks');

/** A guest whose every step is written down. */
class Guest {
  readonly name = 'web';
  readonly steps: string[] = [];
  freezes: () => number = () => 2;
  thaws: () => number = () => 2;
  marks: () => void = () => undefined;
  #sequence = 100;

  async fsFreeze(): Promise<number> {
    this.steps.push('freeze');
    return this.freezes();
  }

  async fsThaw(): Promise<number> {
    this.steps.push('thaw');
    return this.thaws();
  }

  bookmark(): Promise<Bookmarked<Moment>> {
    const marker = {
      set: async () => void this.steps.push('noted'),
      clear: async () => void this.steps.push('cleared'),
    };
    return bookmarkFrozen({
      guest: this,
      marker,
      name: 'upgrade',
      mark: async (name, consistency) => {
        this.steps.push(`mark ${name} ${consistency}`);
        this.marks();
        this.#sequence += 1;
        return { sequence: this.#sequence, timeUs: 1 };
      },
    });
  }
}

test('the moment is marked while the guest is frozen', async () => {
  const guest = new Guest();
  const bookmarked = await guest.bookmark();
  assert.deepEqual(guest.steps, ['noted', 'freeze', 'mark upgrade file-system-consistent', 'thaw', 'cleared']);
  assert.deepEqual(bookmarked, {
    moment: { sequence: 101, timeUs: 1 },
    consistency: 'file-system-consistent',
    notices: [],
  });
});

test('without an agent the moment is crash-consistent, and the report says why', async () => {
  const guest = new Guest();
  guest.freezes = (): number => {
    throw new ApplianceError('AGENT_UNAVAILABLE', 'there is no agent');
  };
  const bookmarked = await guest.bookmark();
  assert.equal(bookmarked.consistency, 'crash-consistent');
  assert.deepEqual(guest.steps.slice(2, 3), ['mark upgrade crash-consistent']);
  assert.match(bookmarked.notices.join(), /there is no agent/);
});

test('a guest that was thawed too early gets a second bookmark, which counts', async () => {
  const guest = new Guest();
  guest.thaws = (): number => 0;
  const bookmarked = await guest.bookmark();
  assert.deepEqual(guest.steps.slice(2), [
    'mark upgrade file-system-consistent',
    'thaw',
    'cleared',
    'mark upgrade crash-consistent',
  ]);
  assert.deepEqual([bookmarked.moment.sequence, bookmarked.consistency], [102, 'crash-consistent']);
  assert.equal(bookmarked.notices.length, 1);
});

test('a guest is thawed when the journal cannot be marked', async () => {
  const guest = new Guest();
  guest.marks = (): void => {
    throw new ApplianceError('MOMENT_IN_GAP', 'no stretch is open');
  };
  await assert.rejects(guest.bookmark(), { code: 'MOMENT_IN_GAP' });
  assert.deepEqual(guest.steps.slice(-2), ['thaw', 'cleared']);
});
