// SPDX-License-Identifier: Apache-2.0
import type { OperationRoute } from './operation-routes.ts';
import type { Appliance } from './operations.ts';

/** What the operator decides, and what was done. */
export type ConfigurationOperationName = keyof Pick<
  Appliance,
  | 'hypervisors'
  | 'hypervisorShow'
  | 'hypervisorAdd'
  | 'hypervisorUpdate'
  | 'hypervisorRemove'
  | 'hypervisorTest'
  | 'configExport'
  | 'configImport'
  | 'settings'
  | 'settingSet'
  | 'settingReset'
  | 'audit'
  | 'auditVerify'
>;

/** The part of `OPERATION_ROUTES` that is about hypervisors, settings and the audit log. */
export const CONFIGURATION_ROUTES: { readonly [Name in ConfigurationOperationName]: OperationRoute } = {
  hypervisors: {
    http: 'GET /hypervisors',
    kind: 'read',
    isList: true,
    needs: 'viewer',
    summary: 'The hypervisors that the appliance was told of',
  },
  hypervisorShow: { http: 'GET /hypervisors/:name', kind: 'read', needs: 'viewer', summary: 'One hypervisor' },
  hypervisorAdd: {
    http: 'POST /hypervisors',
    kind: 'change',
    needs: 'admin',
    secrets: ['password'],
    summary: 'Tell of a hypervisor',
  },
  hypervisorUpdate: {
    http: 'PATCH /hypervisors/:name',
    kind: 'change',
    needs: 'admin',
    secrets: ['password'],
    summary: 'Change where a hypervisor is, or how to get in',
  },
  hypervisorRemove: {
    http: 'DELETE /hypervisors/:name',
    kind: 'change',
    needs: 'admin',
    destroys: true,
    summary: 'Forget a hypervisor',
  },
  hypervisorTest: {
    http: 'POST /hypervisors/:name/test',
    kind: 'change',
    needs: 'operator',
    summary: 'What is missing for a connection to a hypervisor',
  },
  configExport: {
    http: 'POST /config/export',
    kind: 'change',
    needs: 'admin',
    secrets: ['passphrase'],
    summary: 'The configuration as a file',
  },
  configImport: {
    http: 'POST /config/import',
    kind: 'change',
    needs: 'admin',
    destroys: true,
    secrets: ['passphrase', 'document'],
    maxBodyBytes: 8_388_608,
    summary: 'Take the configuration of a file',
  },
  settings: { http: 'GET /settings', kind: 'read', isList: true, needs: 'viewer', summary: 'What can be set' },
  settingSet: {
    http: 'PUT /settings/:name',
    kind: 'change',
    needs: 'admin',
    secrets: ['value'],
    summary: 'Set something',
  },
  settingReset: {
    http: 'DELETE /settings/:name',
    kind: 'change',
    needs: 'admin',
    summary: 'Take the initial value again',
  },
  audit: { http: 'GET /audit', kind: 'read', isList: true, needs: 'admin', summary: 'Who did what, newest first' },
  auditVerify: {
    http: 'GET /audit/verification',
    kind: 'read',
    needs: 'admin',
    summary: 'Whether the audit log is as it was written',
  },
};
