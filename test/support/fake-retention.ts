// SPDX-License-Identifier: Apache-2.0
import type {
  PointGuardsReport,
  RetentionApplyReport,
  RetentionReport,
} from '../../appliance/api/schemas/retention.ts';

const MACHINE_ID = '4c4c4544-0050-3510-8052-b4c04f4d3232';
const preview: RetentionReport = {
  timeZone: 'Europe/Berlin',
  now: '2026-11-21T14:10:00.000Z',
  kept: 2,
  going: 1,
  plan: 'a3c1f0d2b4e5968778695a4b3c2d1e0f',
  points: [
    {
      id: '3f2a91c04b7d8e11',
      machine: 'web',
      machineId: MACHINE_ID,
      createdAt: '2026-11-21T14:04:05.000Z',
      keep: true,
      reasons: ['the newest point', 'last: 1 of 3', 'hourly: 2026-11-21 15:00, 1 of 24', 'daily: 2026-11-21, 1 of 7'],
    },
    {
      id: '9a8b7c6d5e4f3a2b',
      machine: 'web',
      machineId: MACHINE_ID,
      createdAt: '2026-11-21T13:04:05.000Z',
      keep: false,
      reasons: ['daily: 2026-11-21 has a newer one'],
    },
    {
      id: '77aa7c6d5e4f3a2b',
      machine: 'web',
      machineId: MACHINE_ID,
      createdAt: '2026-11-20T13:04:05.000Z',
      keep: true,
      reasons: ['held until 2026-12-24T17:00Z: the auditors of the bank want to see exactly this state of the machine'],
    },
  ],
};

/** What the fake appliance answers about retention, holds and locks. */
export const fakeRetentionResults: {
  readonly guards: PointGuardsReport;
  readonly preview: RetentionReport;
  readonly apply: RetentionApplyReport;
} = {
  guards: {
    point: '3f2a91c04b7d8e11',
    machine: 'web',
    hold: { reason: 'audit', since: '2026-11-21T14:04:05.000Z', until: null },
    lock: { reason: '', since: '2026-11-21T14:04:05.000Z', until: '2026-12-24T17:00:00.000Z' },
  },
  preview,
  apply: {
    ...preview,
    deleted: [{ point: '9a8b7c6d5e4f3a2b', machine: 'web' }],
    spared: [],
    recoverableUntil: '2026-11-28T14:10:00.000Z',
  },
};
