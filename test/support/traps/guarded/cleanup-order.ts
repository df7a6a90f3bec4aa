// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('cleanup order');
test('disposes in reverse order', (t) => {
  const say = (text: string): void => console.log(`disposed ${text}`);
  t.use({ close: () => say('1 by close') });
  t.use({ [Symbol.dispose]: () => say('2 by dispose'), close: () => say('2 by close') });
  t.use({ [Symbol.asyncDispose]: async () => say('3 by asyncDispose'), close: () => say('3 by close') });
});
