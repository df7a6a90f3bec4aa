// SPDX-License-Identifier: Apache-2.0

import type {
  BackupReport,
  BootedMachine,
  BootReport,
  DeleteReport,
  ExportReport,
  MachineDetails,
  MachineSummary,
  MigrateReport,
  PointDetails,
  PointSummary,
  ProtectionReport,
  RestoreReport,
  StopReport,
  UnprotectReport,
} from '../../appliance/api/operations.ts';
import type { BookmarkReport, TimelineReport, WritesReport } from '../../appliance/api/schemas/journal.ts';
import type { CheckReport, GcReport, RebuildReport, StatusReport } from '../../appliance/api/schemas/repository.ts';
import { parseMachineId, parsePointId } from '../../appliance/core/ids.ts';
import { fakeUpkeep } from './fake-upkeep.ts';

/* What the fake appliance answers, besides what fake-standby.ts and fake-retention.ts hold. */

const GIB: number = 2 ** 30;
const MIB: number = 2 ** 20;

export const FAKE_POINT_ID = '3f2a91c04b7d8e11';
const MACHINE_ID = '4c4c4544-0050-3510-8052-b4c04f4d3232';

const stats = {
  changedBytes: 12 * MIB,
  readBytes: 13 * MIB,
  newChunkBytes: 9 * MIB,
  storedBytes: Math.round(3.5 * MIB),
} as const;

const machineSummary: MachineSummary = {
  id: MACHINE_ID,
  name: 'web',
  hypervisor: 'qemu:///system',
  state: 'running',
  points: 3,
  newestPoint: '2026-11-21T14:04:05.000Z',
  policy: 'nightly',
  policyReason: 'it takes every machine',
  rpoTargetMs: 129_600_000,
  rpoNowMs: 7_500_000,
  isOverdue: false,
  disks: [
    {
      name: 'vda',
      device: 'disk',
      source: '/var/lib/libvirt/images/web.qcow2',
      format: 'qcow2',
      sizeBytes: 20 * GIB,
      protection: 'incremental',
      reason: '',
    },
    {
      name: 'vdb',
      device: 'disk',
      source: '/dev/vg0/web-data',
      format: 'raw',
      sizeBytes: 100 * GIB,
      protection: 'full-scan',
      reason: 'a raw disk cannot keep a dirty bitmap',
    },
    {
      name: 'sda',
      device: 'cdrom',
      source: '',
      format: 'raw',
      sizeBytes: null,
      protection: 'none',
      reason: 'a CD-ROM is not part of the machine',
    },
  ],
};

export const fakeResults: {
  readonly status: StatusReport;
  readonly machineSummary: MachineSummary;
  readonly machine: MachineDetails;
  readonly backup: BackupReport;
  readonly protection: ProtectionReport;
  readonly unprotect: UnprotectReport;
  readonly points: readonly PointSummary[];
  readonly pointShow: PointDetails;
  readonly boot: BootReport;
  readonly booted: BootedMachine;
  readonly stop: StopReport;
  readonly migrate: MigrateReport;
  readonly export: ExportReport;
  readonly restore: RestoreReport;
  readonly check: CheckReport;
  readonly rebuild: RebuildReport;
  readonly delete: DeleteReport;
  readonly gc: GcReport;
  readonly timeline: TimelineReport;
  readonly writes: WritesReport;
  readonly bookmark: BookmarkReport;
} = {
  status: {
    state: '/var/lib/understudy',
    repository: '/mnt/backup',
    repositoryId: 'b5c5f35f-4f06-4a53-a6a5-8e84c3e5cf01',
    encryption: 'aes-256-gcm',
    chunkBytes: 65_536,
    points: 3,
    machines: 1,
    logicalBytes: 16 * GIB,
    uniqueBytes: Math.round(5.7 * GIB),
    storedBytes: Math.round(2.1 * GIB),
    servicePid: null,
    upkeep: fakeUpkeep.upkeep,
  },
  machineSummary,
  machine: {
    ...machineSummary,
    firmware: 'bios',
    hasAgent: true,
    notes: ['the TPM state is not part of a recovery point'],
  },
  backup: {
    point: FAKE_POINT_ID,
    machine: 'web',
    kind: 'incremental',
    reason: 'changed blocks since 9a8b7c6d5e4f3a2b',
    consistency: 'file-system-consistent',
    createdAt: '2026-11-21T14:04:05.000Z',
    durationMs: 820,
    disks: [
      { name: 'vda', sizeBytes: 20 * GIB, kind: 'incremental', reason: '', ...stats },
      { name: 'vdb', sizeBytes: 100 * GIB, kind: 'full-scan', reason: 'a raw disk', ...stats, readBytes: 100 * GIB },
    ],
    skipped: [{ name: 'sda', reason: 'a CD-ROM is not part of the machine' }],
    notices: [],
  },
  points: [
    {
      id: '9a8b7c6d5e4f3a2b',
      machine: 'web',
      machineId: MACHINE_ID,
      createdAt: '2026-11-21T13:04:05.000Z',
      kind: 'full',
      reason: 'the first point of this machine',
      consistency: 'crash-consistent',
      disks: 2,
      sizeBytes: 120 * GIB,
      dataBytes: Math.round(5.31 * GIB),
      newChunkBytes: Math.round(5.2 * GIB),
      storedBytes: Math.round(2.1 * GIB),
      durationMs: 83_000,
      lost: false,
      hold: null,
      lock: null,
    },
    {
      id: FAKE_POINT_ID,
      machine: 'web',
      machineId: MACHINE_ID,
      createdAt: '2026-11-21T14:04:05.000Z',
      kind: 'incremental',
      reason: 'changed blocks since 9a8b7c6d5e4f3a2b',
      consistency: 'file-system-consistent',
      disks: 2,
      sizeBytes: 120 * GIB,
      dataBytes: Math.round(5.32 * GIB),
      newChunkBytes: 18 * MIB,
      storedBytes: 7 * MIB,
      durationMs: 820,
      lost: false,
      hold: null,
      lock: null,
    },
  ],
  pointShow: {
    point: {
      format: 'understudy-point',
      version: 1,
      id: parsePointId(FAKE_POINT_ID),
      machine: { id: parseMachineId(MACHINE_ID), name: 'web' },
      sequence: 2,
      createdAt: '2026-11-21T14:04:05.000Z',
      kind: 'incremental',
      reason: 'changed blocks since 9a8b7c6d5e4f3a2b',
      parent: parsePointId('9a8b7c6d5e4f3a2b'),
      consistency: 'file-system-consistent',
      disks: [
        {
          name: 'vda',
          sizeBytes: 20 * GIB,
          root: '0'.repeat(64),
          dataBytes: Math.round(5.31 * GIB),
          identity: {},
          kind: 'incremental',
          reason: '',
          stats,
        },
        {
          name: 'vdb',
          sizeBytes: 100 * GIB,
          root: '0'.repeat(64),
          dataBytes: 8 * MIB,
          identity: {},
          kind: 'full-scan',
          reason: 'a raw disk cannot keep a dirty bitmap',
          stats,
        },
      ],
      skipped: [{ name: 'sda', reason: 'a CD-ROM is not part of the machine' }],
      attachments: [{ name: 'domain.xml', lengthBytes: 4321, chunks: [] }],
      tracker: {},
      durationMs: 820,
    },
    moment: null,
    usedBy: [],
    lost: false,
    hold: null,
    lock: null,
  },
  boot: {
    name: 'web-3f2a91c0',
    machineId: 'a7f3c1de-0000-4000-8000-000000000001',
    point: FAKE_POINT_ID,
    moment: null,
    connect: 'qemu:///system',
    durationMs: 1240,
    exports: [{ disk: 'vda', uri: 'nbd+unix:///boot-1-vda?socket=/run/understudy/nbd.sock' }],
    changes: ['the network link of 52:54:00:11:22:33 is down'],
  },
  booted: {
    name: 'web-3f2a91c0',
    machineId: 'a7f3c1de-0000-4000-8000-000000000001',
    point: FAKE_POINT_ID,
    moment: null,
    connect: 'qemu:///system',
    state: 'running',
    startedAt: '2026-11-21T14:10:00.000Z',
    writtenBytes: 42 * MIB,
    problem: null,
  },
  stop: {
    name: 'web-3f2a91c0',
    discarded: false,
    writtenBytes: 42 * MIB,
    outcome: 'web-3f2a91c0 was switched off; what it had written is kept',
  },
  migrate: {
    name: 'web-3f2a91c0',
    machineId: 'a7f3c1de-0000-4000-8000-000000000001',
    connect: 'qemu:///system',
    disks: [{ disk: 'vda', path: '/srv/vm/web-vda.qcow2', format: 'qcow2', sizeBytes: 20 * GIB }],
    verifiedBytes: 20 * GIB - 3 * MIB,
    busyBytes: 3 * MIB,
    durationMs: 61_000,
    nextName: 'web',
    changes: ['vda is /srv/vm/web-vda.qcow2 (qcow2).'],
  },
  export: {
    id: 'export-1',
    uri: 'nbd+unix:///vda?socket=/run/understudy/nbd.sock',
    point: FAKE_POINT_ID,
    moment: null,
    disk: 'vda',
    sizeBytes: 20 * GIB,
    writable: false,
  },
  restore: {
    point: FAKE_POINT_ID,
    moment: null,
    targets: [{ disk: 'vda', to: '/tmp/web.raw', sizeBytes: 20 * GIB, writtenBytes: Math.round(5.31 * GIB) }],
    machine: null,
    durationMs: 9_400,
    changes: [],
  },
  check: {
    ok: true,
    readData: false,
    points: 3,
    packs: 34,
    nodes: 1520,
    chunks: 81_234,
    readBytes: 0,
    durationMs: 640,
    findings: [],
  },
  rebuild: { points: 3, packs: 34, chunks: 81_234, problems: [], durationMs: 2_300 },
  protection: {
    machine: 'web',
    machineId: MACHINE_ID,
    connect: 'qemu:///system',
    protectedSince: '2026-11-20T10:00:00.000Z',
    mode: 'writes',
    intervalMs: null,
    durability: 'group',
    state: 'protected',
    reason: 'every write is kept',
    stateSince: '2026-11-21T13:00:00.000Z',
    rpoMs: 0,
    journalBytes: Math.round(3.2 * GIB),
    bytesPerSecond: Math.round(1.5 * MIB),
    window: { from: '2026-11-20T14:00:00.000Z', to: '2026-11-21T14:04:05.000Z' },
    gaps: [{ from: '2026-11-21T12:58:00.000Z', to: '2026-11-21T13:00:00.000Z', reason: 'the machine was shut off' }],
    lastFold: '2026-11-21T14:00:00.000Z',
    foldProblem: null,
    problems: [],
    resync: null,
    windowMs: 86_400_000,
    windowBytes: null,
    history: [],
  },
  unprotect: {
    machine: 'web',
    point: FAKE_POINT_ID,
    outcome: 'web is not protected any more; its last state is the recovery point 3f2a91c04b7d8e11.',
  },
  delete: { point: FAKE_POINT_ID, machine: 'web', recoverableUntil: '2026-11-28T14:04:05.000Z', lost: false },
  gc: {
    liveBytes: Math.round(2.1 * GIB),
    packsDeleted: 3,
    packsRewritten: 1,
    packsWithoutRoom: 0,
    freedBytes: 300 * MIB,
    pointsInGrace: 2,
    pointsPurged: 1,
    durationMs: 1_400,
  },
  timeline: {
    machine: 'web',
    machineId: MACHINE_ID,
    from: '2026-11-21T14:00:00.000Z',
    to: '2026-11-21T15:00:00.000Z',
    points: [
      {
        id: FAKE_POINT_ID,
        time: '2026-11-21T14:04:05.000Z',
        kind: 'full',
        consistency: 'crash-consistent',
        sequence: 0,
      },
    ],
    bookmarks: [
      {
        name: 'before the upgrade',
        sequence: 1200,
        time: '2026-11-21T14:20:00.000123Z',
        consistency: 'file-system-consistent',
      },
    ],
    stretches: [
      {
        kind: 'writes',
        begin: { sequence: 10, time: '2026-11-21T14:05:00.000Z' },
        end: { sequence: 1500, time: '2026-11-21T14:30:00.000Z' },
        open: false,
        endReason: 'the connection was lost',
      },
      {
        kind: 'writes',
        begin: { sequence: 1700, time: '2026-11-21T14:33:20.000Z' },
        end: { sequence: 2000, time: '2026-11-21T15:00:00.000Z' },
        open: true,
        endReason: null,
      },
    ],
    gaps: [{ begin: '2026-11-21T14:30:00.000Z', end: '2026-11-21T14:33:20.000Z', reason: 'the connection was lost' }],
    buckets: [
      { time: '2026-11-21T14:00:00.000Z', writes: 0, bytes: 0 },
      { time: '2026-11-21T14:20:00.000Z', writes: 1000, bytes: 4_096_000 },
      { time: '2026-11-21T14:40:00.000Z', writes: 500, bytes: 2_048_000 },
    ],
    bucketMicroseconds: 1_200_000_000,
  },
  bookmark: {
    machine: 'web',
    machineId: MACHINE_ID,
    bookmark: 'before the upgrade',
    sequence: 1200,
    time: '2026-11-21T14:20:00.000123Z',
    consistency: 'file-system-consistent',
    notices: [],
  },
  writes: {
    machine: 'web',
    machineId: MACHINE_ID,
    around: '2026-11-21T14:20:00.000Z',
    from: '2026-11-21T14:19:50.000Z',
    to: '2026-11-21T14:20:10.000Z',
    writes: [
      {
        sequence: 1198,
        time: '2026-11-21T14:19:58.000Z',
        disk: 'vda',
        offset: 0,
        length: 65_536,
        kind: 'write',
        recoverable: true,
      },
      {
        sequence: 1199,
        time: '2026-11-21T14:19:58.000Z',
        disk: 'vda',
        offset: 65_536,
        length: 4096,
        kind: 'write',
        recoverable: true,
      },
      {
        sequence: 1201,
        time: '2026-11-21T14:20:00.250123Z',
        disk: 'vdb',
        offset: 2 ** 40,
        length: MIB,
        kind: 'trim',
        recoverable: false,
      },
    ],
    truncated: false,
  },
};
