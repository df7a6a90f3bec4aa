// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('failing cleanup');
test('passes, but what it used cannot be closed', (t) => {
  t.use({
    close: () => {
      throw new Error('cannot be closed');
    },
  });
});
