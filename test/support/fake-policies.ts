// SPDX-License-Identifier: Apache-2.0
import type { PolicyPreviewReport, PolicyReport, ScheduleReport } from '../../appliance/api/schemas/policies.ts';

const MACHINE_ID = '4c4c4544-0050-3510-8052-b4c04f4d3232';
const HOST = 'qemu:///system';

const policy: PolicyReport = {
  name: 'nightly',
  enabled: true,
  priority: 0,
  machines: { all: true, except: ['test-*'] },
  mode: 'scheduled',
  schedule: 'daily 22:00',
  timeZone: 'Europe/Berlin',
  quiesce: 'try',
  keep: { daily: 14, weekly: 8 },
  window: '21:00-06:00',
  bandwidth: '50MiB',
  rpoTargetMs: 135_000_000,
  revision: 7,
};

const preview: PolicyPreviewReport = {
  policy,
  machines: [
    {
      id: MACHINE_ID,
      machine: 'web',
      host: HOST,
      reason: 'it takes every machine',
      isTaken: true,
      kept: 2,
      going: 1,
      bytesPerRun: 3_670_016,
    },
    {
      id: '4c4c4544-0050-3510-8052-b4c04f4d3233',
      machine: 'db',
      host: HOST,
      reason: 'policy databases has it: by tag (db); before nightly by priority',
      isTaken: false,
      kept: 0,
      going: 0,
      bytesPerRun: null,
    },
  ],
  next: ['2026-11-21T21:00:00.000Z', '2026-11-22T21:00:00.000Z'],
  keptPoints: 22,
  expectedBytes: 2_330_000_000,
  problems: ['qemu+ssh://host2/system: no answer'],
};

const schedule: ScheduleReport = {
  isRunning: true,
  retentionProblem: null,
  hosts: [
    { uri: HOST, running: 1, problem: null },
    { uri: 'qemu+ssh://host2/system', running: 0, problem: 'no answer' },
  ],
  machines: [
    {
      id: MACHINE_ID,
      machine: 'web',
      host: HOST,
      policy: 'nightly',
      state: 'running',
      reason: 'it runs',
      dueAt: '2026-11-21T21:00:00.000Z',
      rpoTargetMs: 135_000_000,
      rpoNowMs: 86_400_000,
      attempts: 0,
      lastFailure: null,
    },
    {
      id: '4c4c4544-0050-3510-8052-b4c04f4d3234',
      machine: 'mail',
      host: HOST,
      policy: 'nightly',
      state: 'failed',
      reason: 'it failed, and is tried again: another job runs on this machine',
      dueAt: '2026-11-21T21:04:00.000Z',
      rpoTargetMs: 135_000_000,
      rpoNowMs: null,
      attempts: 3,
      lastFailure: { at: '2026-11-21T21:02:00.000Z', code: 'DOMAIN_BUSY', message: 'another job runs on this machine' },
    },
  ],
  unprotected: [
    { id: '4c4c4544-0050-3510-8052-b4c04f4d3235', machine: 'test-1', host: HOST, reason: 'no policy selects it' },
  ],
};

export const fakePolicyResults: {
  readonly policy: PolicyReport;
  readonly preview: PolicyPreviewReport;
  readonly schedule: ScheduleReport;
} = { policy, preview, schedule };
