// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('throws at load');
test('never runs', () => undefined);
throw new Error('the file cannot be loaded');
