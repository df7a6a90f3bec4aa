// SPDX-License-Identifier: Apache-2.0
import { suite } from 'uvu';

const test = suite('throwing before');
test.before(() => {
  throw new Error('must be seen');
});
test('never runs', () => undefined);
test.run();
