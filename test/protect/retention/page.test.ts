// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { decideRetention } from '../../../appliance/protect/retention/decide.ts';
import { formatSpan, parseSpan } from '../../../appliance/protect/retention/rule.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import { quoted, tableBelow } from '../../tidy/source-tree.ts';

const test = suite('docs/retention.md');

test('the worked example is what is decided', () => {
  const rows = tableBelow('docs/retention.md', 'Worked example');
  assert.equal(rows.length, 9);
  const points = rows.map(([id = '', taken = '', , why = ''], n) => {
    const held = /held: \w+/.exec(why)?.[0];
    return {
      id: quoted(id)[0] ?? '',
      sequence: rows.length - n,
      timeMs: Date.parse(taken),
      defect: null,
      kept: held === undefined ? [] : [held],
    };
  });
  const verdicts = decideRetention(points, {
    rule: { last: 2, hourly: 3, daily: 3, weekly: 3, monthly: 2 },
    timeZone: 'Europe/Berlin',
    nowMs: Date.parse('2026-11-04T22:00Z'),
  });
  assert.deepEqual(
    verdicts.map(({ id, keep, reasons }) => [`\`${id}\``, keep ? 'keep' : 'go', reasons.join('; ')]),
    rows.map(([id, , verdict, why]) => [id, verdict, why]),
  );
});

test('spans read as they are written, and what is none is refused', async () => {
  for (const text of ['12h', '14d', '8w', '6mo', '1y6mo', '1y2mo3w4d5h'])
    assert.equal(formatSpan(parseSpan(text)), text);
  for (const text of ['', '5', '5m', '0d', '-1d', '1.5d', '1d1y', '999999d']) {
    await rejectsWith((async () => parseSpan(text))(), 'BAD_ARGUMENT');
  }
});
