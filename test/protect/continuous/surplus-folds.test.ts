// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { surplusFolds } from '../../../appliance/protect/continuous/surplus-folds.ts';
import type { RecoveryPoint } from '../../../appliance/repository/manifest.ts';
import { FOLDED } from '../../../appliance/volume/fold-schedule.ts';
import { suite } from '../../support/suite.ts';

const test = suite('which folds are not needed any more');
const HOUR_MS = 3_600_000;
const NOW = Date.parse('2026-11-21T12:30:00Z');

function fold(name: string, atMs: number, reason: string = FOLDED): RecoveryPoint {
  const createdAt = new Date(atMs).toISOString();
  return { id: name, createdAt, reason, sequence: 1, journal: { sequence: 1 } } as unknown as RecoveryPoint;
}

/** One each ten minutes, from so many hours ago until now. */
function row(hours: number): RecoveryPoint[] {
  return Array.from({ length: hours * 6 }, (_, index) => {
    const atMs = NOW - (hours * 6 - index) * (HOUR_MS / 6);
    return fold(new Date(atMs).toISOString(), atMs);
  });
}

test('of ten days the newest of each hour of two days and the newest of each day stay, besides what is needed', () => {
  const points = row(240);
  const oldest = NOW - 24 * HOUR_MS;
  const isNeeded = ({ createdAt }: RecoveryPoint): boolean => Date.parse(createdAt) >= oldest;
  const surplus = new Set(surplusFolds(points, isNeeded, NOW));
  const kept = points.filter((point) => !surplus.has(point)).map(({ id }) => id);
  const needed = kept.filter((id) => Date.parse(id) >= oldest);
  const hourly = kept.filter((id) => Date.parse(id) < oldest && Date.parse(id) > NOW - 48 * HOUR_MS);
  const daily = kept.filter((id) => Date.parse(id) <= NOW - 48 * HOUR_MS);
  assert.equal(needed.length, 144);
  assert.deepEqual([hourly.length, hourly.every((id) => id.includes(':50:'))], [24, true]);
  assert.deepEqual([daily.length, daily.every((id) => id.endsWith('T23:50:00.000Z'))], [8, true], daily.join());
});

test('what a person or a schedule made is never surplus, nor is a lone fold, and it does not hide a fold', () => {
  const old = NOW - 1_000 * HOUR_MS;
  const points = [
    fold('asked', old, 'asked for by the operator'),
    fold('lone', old + 1),
    fold('last', old + 2, 'the last state under continuous protection'),
    { ...fold('backup', old + 3), journal: undefined } as unknown as RecoveryPoint,
  ];
  assert.deepEqual(
    surplusFolds(points, () => false, NOW),
    [],
  );
});

test('a clock that went back deletes nothing more', () => {
  const points = row(24);
  const before = surplusFolds(points, () => false, NOW).length;
  assert.equal(surplusFolds(points, () => false, NOW - 1_000 * HOUR_MS).length, before);
});
