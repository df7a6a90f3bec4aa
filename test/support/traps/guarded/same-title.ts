// SPDX-License-Identifier: Apache-2.0
import { suite } from '../../suite.ts';

const test = suite('same title');
test('says one thing', () => undefined);
test('says one thing', () => undefined);
