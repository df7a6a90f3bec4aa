// SPDX-License-Identifier: Apache-2.0
import { suite } from 'uvu';

const test = suite('thrown undefined');
test('fails with something that is not an error', () => Promise.reject());
test.run();
