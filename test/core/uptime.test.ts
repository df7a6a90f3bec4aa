// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { uptime } from 'node:os';
import { hostUptime } from '../../appliance/core/uptime.ts';
import { suite } from '../support/suite.ts';

const test = suite('uptime of the host');

test('it grows with the one that the system tells, within one start of the kernel', () => {
  const toleranceMs = 1_000;
  const [before, first, second, after] = [uptime(), hostUptime(), hostUptime(), uptime()];
  assert.match(first.bootId, /^[0-9a-f-]{36}$/);
  assert.equal(second.bootId, first.bootId);
  assert.ok(second.uptimeMs >= first.uptimeMs);
  assert.ok(first.uptimeMs >= before * 1000 - toleranceMs && second.uptimeMs <= after * 1000 + toleranceMs);
});
