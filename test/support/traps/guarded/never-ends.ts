// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('never ends');
test('blocks the event loop', () => {
  for (;;);
});
