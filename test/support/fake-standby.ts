// SPDX-License-Identifier: Apache-2.0
import type { RewindReport } from '../../appliance/api/schemas/booted.ts';
import type {
  FailbackReport,
  FailoverReport,
  StandbySummary,
  StandbyTestReport,
} from '../../appliance/api/schemas/standbys.ts';

const MIB: number = 2 ** 20;
const POINT_ID = '3f2a91c04b7d8e11';

/** What the fake appliance answers about spares, and about a rewind. */
export const fakeStandbyResults: {
  readonly standby: StandbySummary;
  readonly standbyTest: StandbyTestReport;
  readonly failover: FailoverReport;
  readonly failback: FailbackReport;
  readonly rewind: RewindReport;
} = {
  rewind: {
    name: 'web-3f2a',
    machineId: '0c9d0000-0000-4000-8000-00000000abcd',
    point: '00aa11bb22cc33dd',
    moment: { sequence: 1200, time: '2026-11-21T10:31:07.250Z', consistency: 'crash-consistent', bookmark: null },
    target: '11aa11bb22cc33dd',
    bookmark: 'before the rewind to 2026-11-21T10:31:07.250Z',
    pointBefore: '22aa11bb22cc33dd',
    downMs: 900,
    durationMs: 1400,
  },
  standby: {
    name: 'web-standby',
    machine: 'web',
    machineId: '4c4c4544-0050-3510-8052-b4c04f4d3232',
    original: 'qemu:///system',
    connect: 'qemu:///session',
    networks: { lan: 'lan2' },
    memoryMiB: 2048,
    point: POINT_ID,
    phase: 'ready',
    standing: 'web-standby is ready to take over from web.',
    since: null,
    changes: ['The name is web-standby instead of web.'],
  },
  standbyTest: {
    name: 'web-standby',
    machine: 'web',
    point: POINT_ID,
    bootedMs: 800,
    answeredMs: 4200,
    answeredBy: 'agent',
    shownMs: null,
  },
  failover: {
    machine: 'web',
    name: 'web-standby',
    connect: 'qemu:///session',
    planned: true,
    point: POINT_ID,
    moment: null,
    bootedMs: 1900,
    answeredMs: 5100,
    answeredBy: 'disk-writes',
    changes: ['The name is web-standby instead of web.'],
  },
  failback: {
    machine: 'web',
    name: 'web-standby',
    method: 'changes',
    reason: '',
    rounds: 3,
    changedBytes: 64 * MIB,
    copiedBytes: 65 * MIB,
    zeroedBytes: 2 * MIB,
    verifiedBytes: 66 * MIB,
    downMs: 900,
    durationMs: 21_000,
    pointBefore: POINT_ID,
  },
};
