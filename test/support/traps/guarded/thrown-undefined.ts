// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('thrown undefined');
test('fails with something that is not an error', () => Promise.reject());
