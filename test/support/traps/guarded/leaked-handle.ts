// SPDX-License-Identifier: Apache-2.0
import { createServer } from 'node:net';
import { suite } from '../../suite.ts';

const test = suite('leaked handle');
test('leaves a server listening', () => {
  createServer().listen(0, '127.0.0.1');
});
