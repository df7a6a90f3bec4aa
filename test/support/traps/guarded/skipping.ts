// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('skipping', { requires: ['no-such-program'] });
test('needs a program', () => undefined);
test('needs another one too', () => undefined, { requires: ['/no/such/device'] });
