// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { zonedParams, zonedPoint, zonedTime } from '../../appliance/cli/zoned-moment.ts';
import { suite } from '../support/suite.ts';

const test = suite('local times of the command line');

function inZone<T>(zone: string, work: () => T): T {
  const before = process.env['TZ'];
  process.env['TZ'] = zone;
  try {
    return work();
  } finally {
    if (before === undefined) delete process.env['TZ'];
    else process.env['TZ'] = before;
  }
}

test('a local time gets the offset that it has where it was typed, in summer and in winter', () => {
  inZone('Europe/Berlin', () => {
    assert.equal(zonedTime('2026-11-21T14:00'), '2026-11-21T14:00:00+01:00');
    assert.equal(zonedTime('2026-07-01 14:00:05.25'), '2026-07-01T14:00:05.25+02:00');
    assert.equal(zonedTime('2026-11-21'), '2026-11-21T00:00:00+01:00');
    assert.equal(zonedPoint('web@2026-11-21T14:00'), 'web@2026-11-21T14:00:00+01:00');
    assert.equal(zonedPoint('a@b@"2026-11-21 14:00"'), 'a@b@2026-11-21T14:00:00+01:00');
  });
  inZone('America/St_Johns', () => assert.equal(zonedTime('2026-11-21T14:00'), '2026-11-21T14:00:00-03:30'));
});

test('what is no local time, comes twice or never stays as it is', () => {
  inZone('Europe/Berlin', () => {
    for (const text of [
      '2026-11-21T14:00Z',
      '5 minutes ago',
      'now',
      '2026-02-30',
      '2026-10-25T02:30',
      '2026-03-29T02:30',
    ])
      assert.equal(zonedTime(text), text);
    for (const text of ['web@latest', '3f2a91c0', 'web@bookmark:"2026-11-21"', 'web@"5 minutes ago"'])
      assert.equal(zonedPoint(text), text);
  });
});

test('places are not taken for times', () => {
  inZone('Europe/Berlin', () => {
    const place = { point: 'web@2026-11-21', to: '2026-11-21' };
    assert.deepEqual(zonedParams('restore', place), { point: 'web@2026-11-21T00:00:00+01:00', to: '2026-11-21' });
    assert.deepEqual(zonedParams('timeline', { to: '2026-11-21' }), { to: '2026-11-21T00:00:00+01:00' });
    const lock = { point: '3f2a91c0', until: '2027-01-01' };
    assert.deepEqual(zonedParams('lock', lock), { point: '3f2a91c0', until: '2027-01-01T00:00:00+01:00' });
  });
});
