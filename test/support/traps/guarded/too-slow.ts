// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events';
import { suite } from '../../suite.ts';

const test = suite('too slow');
test(
  'waits for ever',
  async (t) => {
    t.use({ close: () => console.log(`aborted before disposal: ${t.signal.aborted}`) });
    await once(process, 'never');
  },
  { timeoutMs: 20 },
);
test('runs though the one before it did not end', () => undefined);
