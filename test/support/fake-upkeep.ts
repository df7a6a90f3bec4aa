// SPDX-License-Identifier: Apache-2.0
import type { CapacityReport, UpkeepReport } from '../../appliance/api/schemas/upkeep.ts';

const GIB: number = 2 ** 30;

const room = {
  level: 'ok',
  freeBytes: 120 * GIB,
  totalBytes: 400 * GIB,
  growthBytesPerDay: Math.round(1.5 * GIB),
  daysUntilFull: 80,
} as const;

export const fakeUpkeep: { readonly upkeep: UpkeepReport; readonly capacity: CapacityReport } = {
  upkeep: {
    collection: { lastAt: '2026-11-21T02:10:00.000Z', nextAt: '2026-11-22T02:10:00.000Z', problem: null },
    scrub: { lastAt: '2026-11-21T03:00:00.000Z', nextAt: '2026-11-22T03:00:00.000Z', problem: null },
    round: {
      startedAt: '2026-11-12T03:00:00.000Z',
      readBytes: Math.round(0.7 * GIB),
      lastEndedAt: '2026-11-11T03:00:00.000Z',
    },
    findings: [],
    omittedFindings: 0,
    capacity: room,
  },
  capacity: {
    ...room,
    logicalBytes: 16 * GIB,
    uniqueBytes: Math.round(5.7 * GIB),
    storedBytes: Math.round(2.1 * GIB),
    historyDays: 21,
    history: [
      {
        at: '2026-11-20T02:00:00.000Z',
        logicalBytes: 15 * GIB,
        uniqueBytes: Math.round(5.2 * GIB),
        storedBytes: Math.round(1.9 * GIB),
        freeBytes: Math.round(121.5 * GIB),
        totalBytes: 400 * GIB,
      },
    ],
    machines: [
      {
        id: '4c4c4544-0050-3510-8052-b4c04f4d3232',
        name: 'web',
        points: 3,
        logicalBytes: 16 * GIB,
        addedBytes: Math.round(2.1 * GIB),
      },
    ],
  },
};
