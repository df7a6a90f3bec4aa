// SPDX-License-Identifier: Apache-2.0
import type { AuditActReport, AuditVerdictReport } from '../../appliance/api/schemas/audit.ts';
import type { ConfigExportReport, ConfigImportReport } from '../../appliance/api/schemas/configuration.ts';
import type { HypervisorReport, HypervisorTestReport } from '../../appliance/api/schemas/hypervisors.ts';
import type { SettingReport } from '../../appliance/api/schemas/settings.ts';

/** What the fake appliance says about its configuration and its audit log. */
export const fakeConfiguration: {
  readonly hypervisor: HypervisorReport;
  readonly hypervisorTest: HypervisorTestReport;
  readonly setting: SettingReport;
  readonly configExport: ConfigExportReport;
  readonly configImport: ConfigImportReport;
  readonly act: AuditActReport;
  readonly verdict: AuditVerdictReport;
} = {
  hypervisor: {
    name: 'rack1',
    uri: 'qemu+tls://rack1/system',
    sshKeyFile: null,
    tlsDirectory: '/etc/pki/understudy',
    username: 'backup',
    hasPassword: true,
    revision: 3,
  },
  hypervisorTest: {
    name: 'rack1',
    uri: 'qemu+tls://rack1/system',
    isOk: false,
    machines: null,
    steps: [
      { what: 'address', isOk: true, detail: 'rack1 over tls', hint: '' },
      { what: 'cacert.pem', isOk: false, detail: '/etc/pki/understudy/cacert.pem does not exist', hint: '' },
    ],
  },
  setting: {
    name: 'selfbackup.keep',
    value: 14,
    isSet: false,
    kind: 'count',
    initial: 14,
    meaning: 'how many states of the configuration the repository keeps',
    revision: 0,
  },
  configExport: { document: '{}\n', documents: [{ collection: 'settings', count: 1 }], hasSecrets: false },
  configImport: {
    applied: false,
    differences: [{ collection: 'settings', added: ['selfbackup.keep'], changed: [], removed: [] }],
  },
  act: {
    sequence: 7,
    at: '2026-11-21T14:04:05.000Z',
    action: 'delete',
    who: { kind: 'user', id: 'ada', name: 'Ada', role: 'admin' },
    from: '192.0.2.1',
    requestId: 'req-1',
    target: '3f2a91c04b7d8e11',
    params: { point: '3f2a91c04b7d8e11' },
    outcome: 'failed',
    code: 'POINT_HELD',
    approval: null,
    endedAt: '2026-11-21T14:04:06.000Z',
  },
  verdict: { entries: 7, segments: 1, first: 1, last: 7, head: 'ab'.repeat(32), anchors: 2, bad: null },
};
