// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { selectPoint } from '../../appliance/protect/point-selector.ts';
import { parseSelector } from '../../appliance/protect/selector.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { suite } from '../support/suite.ts';

const test = suite('point selector');
const NOW_MS = Date.parse('2026-11-21T12:00:00Z');

function point(id: string, name: string, sequence: number, createdAt: string): RecoveryPoint {
  return {
    id,
    machine: { id: `0b1c2d3e-4f50-4617-8899-aabbccddee${name === 'web' ? '01' : '02'}`, name },
    sequence,
    createdAt,
  } as unknown as RecoveryPoint;
}

const POINTS = [
  point('aaaa000000000001', 'web', 1, '2026-11-20T10:00:00.000Z'),
  point('aaaa000000000002', 'web', 2, '2026-11-21T10:00:00.000Z'),
  point('bbbb000000000003', 'web', 3, '2026-11-21T09:00:00.000Z'),
  point('cccc000000000004', 'a@b', 1, '2026-11-22T10:00:00.000Z'),
];

function select(expression: string): string {
  return selectPoint(POINTS, parseSelector(expression, NOW_MS)).id;
}

function codeOf(expression: string): string {
  try {
    return select(expression);
  } catch (error) {
    assert.ok(error instanceof ApplianceError);
    return error.code;
  }
}

test('an id or an unambiguous prefix of at least four digits names its point', () => {
  assert.equal(select('aaaa000000000002'), 'aaaa000000000002');
  assert.equal(select('BBBB'), 'bbbb000000000003');
  assert.equal(codeOf('aaaa'), 'POINT_AMBIGUOUS');
  assert.equal(codeOf('bbb'), 'POINT_NOT_FOUND');
  assert.equal(codeOf('dddd'), 'POINT_NOT_FOUND');
});

test('positions count from the newest by sequence, whatever the clock said', () => {
  assert.equal(select('web@latest'), 'bbbb000000000003');
  assert.equal(select('web@-1'), 'aaaa000000000002');
  assert.equal(select('web@-2'), 'aaaa000000000001');
  assert.equal(codeOf('web@-3'), 'POINT_NOT_FOUND');
});

test('a time means the newest point that is not later', () => {
  assert.equal(select('web@2026-11-20T12:00:00Z'), 'aaaa000000000001');
  assert.equal(select('web@2026-11-21T10:00:00.000Z'), 'bbbb000000000003');
  assert.equal(codeOf('web@2026-11-19T00:00:00Z'), 'POINT_NOT_FOUND');
  assert.equal(select('web@"3 hours ago"'), 'bbbb000000000003');
  assert.equal(select('web@1 day ago'), 'aaaa000000000001');
  assert.equal(codeOf('web@yesterday evening'), 'BAD_ARGUMENT');
});

test('machines are found by name, also one with an @, and by id', () => {
  assert.equal(select('a@b@latest'), 'cccc000000000004');
  assert.equal(select('0b1c2d3e-4f50-4617-8899-aabbccddee02@latest'), 'cccc000000000004');
  assert.equal(codeOf('db@latest'), 'MACHINE_NOT_FOUND');
});

test('a moment that only a journal knows is no recovery point', () => {
  assert.equal(codeOf('web@bookmark:"before the upgrade"'), 'BAD_ARGUMENT');
  assert.equal(codeOf('web@seq:12'), 'BAD_ARGUMENT');
});

function ofMachine(name: string, machine: number, sequence: number): RecoveryPoint {
  const id = `0b1c2d3e-4f50-4617-8899-aabbccddee0${machine}`;
  const createdAt = `2026-11-2${sequence}T10:00:00.000Z`;
  return { id: `dddd00000000000${sequence}`, machine: { id, name }, sequence, createdAt } as unknown as RecoveryPoint;
}

test('machines that share a name are not mixed: which one is meant must be said', () => {
  const both = [...POINTS, ofMachine('web', 5, 1)];
  for (const moment of ['latest', '-1', '2026-11-21T11:00Z']) {
    const selector = parseSelector(`web@${moment}`, NOW_MS);
    assert.throws(() => selectPoint(both, selector), { code: 'POINT_AMBIGUOUS' });
  }
  const byId = parseSelector('0b1c2d3e-4f50-4617-8899-aabbccddee05@latest', NOW_MS);
  assert.equal(selectPoint(both, byId).id, 'dddd000000000001');
});

test('a machine that was renamed has one history, under its newest name and under one that nobody has now', () => {
  const renamed = [ofMachine('old', 5, 1), ofMachine('new', 5, 2)];
  for (const name of ['old', 'new']) {
    assert.equal(selectPoint(renamed, parseSelector(`${name}@latest`, NOW_MS)).id, 'dddd000000000002');
    assert.equal(selectPoint(renamed, parseSelector(`${name}@-1`, NOW_MS)).id, 'dddd000000000001');
  }
  const taken = [...renamed, ofMachine('old', 6, 3)];
  assert.equal(selectPoint(taken, parseSelector('old@latest', NOW_MS)).id, 'dddd000000000003');
  assert.throws(() => selectPoint(taken, parseSelector('old@-1', NOW_MS)), { code: 'POINT_NOT_FOUND' });
});
