// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('failing cleanup of what is shared');
const thing = test.share((t) => {
  t.use({ close: () => Promise.reject(new Error('it stays')) });
  return Promise.resolve(1);
});
test('passes', async () => {
  await thing();
});
