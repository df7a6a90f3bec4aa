// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('late registration');
test('registers another test', () => test('never runs', () => undefined));
