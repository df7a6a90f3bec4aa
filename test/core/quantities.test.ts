// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { parseByteCount, parseDurationMs } from '../../appliance/core/quantities.ts';
import { suite } from '../support/suite.ts';

const test = suite('quantities');

test('lengths of time have a unit', () => {
  const wanted = { '500ms': 500, '5s': 5000, '2min': 120_000, '2 min': 120_000, '1h': 3_600_000, '7d': 604_800_000 };
  for (const [text, milliseconds] of Object.entries(wanted)) assert.equal(parseDurationMs(text), milliseconds, text);
});

test('numbers of bytes may have a binary unit', () => {
  const wanted = { '4096': 4096, '64KiB': 65_536, '1 MiB': 1_048_576, '20GiB': 20 * 2 ** 30, '2TiB': 2 * 2 ** 40 };
  for (const [text, bytes] of Object.entries(wanted)) assert.equal(parseByteCount(text), bytes, text);
});

test('anything else is refused', () => {
  for (const text of ['', '5', 's', '-5s', '1.5s', '5 fortnights', '5S', '9999999999999999d']) {
    assert.throws(() => parseDurationMs(text), { code: 'BAD_ARGUMENT' }, text);
  }
  for (const text of ['', 'KiB', '-1', '1.5MiB', '1MB', '1toString', '9999999999999999TiB']) {
    assert.throws(() => parseByteCount(text), { code: 'BAD_ARGUMENT' }, text);
  }
});
