// SPDX-License-Identifier: Apache-2.0
import { access, constants, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { HypervisorTestReport } from '../api/schemas/hypervisors.ts';
import type { HypervisorRecord } from '../config/hypervisor-record.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import { parseEndpoint } from '../hypervisor/libvirt/endpoint.ts';

type Step = HypervisorTestReport['steps'][number];

/** Files of a TLS directory. (libvirt: tlscerts.html) */
const TLS_FILES = ['cacert.pem', 'clientcert.pem', 'clientkey.pem'] as const;

/** Looks at what a connection needs, one thing after the other, and then opens one. Each step says what is missing. */
export async function testHypervisor(
  { name, uri, record }: { readonly name: string; readonly uri: string; readonly record: HypervisorRecord },
  open: (uri: string) => Promise<LibvirtConnection>,
): Promise<HypervisorTestReport> {
  const steps: Step[] = [{ what: 'address', isOk: true, detail: describeEndpoint(record.uri), hint: '' }];
  if (record.sshKeyFile !== undefined) steps.push(await lookAtFile('ssh key', record.sshKeyFile, true));
  if (record.tlsDirectory !== undefined) {
    for (const file of TLS_FILES) {
      steps.push(await lookAtFile(file, join(record.tlsDirectory, file), file === 'clientkey.pem'));
    }
  }
  const facts = steps.every(({ isOk }) => isOk) ? await tryConnection(uri, open) : { steps: [], machines: null };
  const all = [...steps, ...facts.steps];
  return { name, uri: record.uri, isOk: all.every(({ isOk }) => isOk), machines: facts.machines, steps: all };
}

async function tryConnection(
  uri: string,
  open: (uri: string) => Promise<LibvirtConnection>,
): Promise<{ readonly steps: readonly Step[]; readonly machines: number | null }> {
  const steps: Step[] = [];
  try {
    await using connection = await open(uri);
    const versions = await connection.versions();
    steps.push({ what: 'connection', isOk: true, detail: describeVersions(versions), hint: '' });
    const machines = (await connection.domains()).length;
    steps.push({ what: 'machines', isOk: true, detail: `${machines} can be seen`, hint: '' });
    return { steps, machines };
  } catch (error) {
    if (!(error instanceof ApplianceError) || error.code === 'INTERNAL') throw error;
    const what = steps.length === 0 ? 'connection' : 'machines';
    return {
      steps: [...steps, { what, isOk: false, detail: `${error.code}: ${error.message}`, hint: error.hint }],
      machines: null,
    };
  }
}

async function lookAtFile(what: string, path: string, isPrivate: boolean): Promise<Step> {
  try {
    const found = await stat(path);
    await access(path, constants.R_OK);
    if (!found.isFile()) return { what, isOk: false, detail: `${path} is no file`, hint: '' };
    if (isPrivate && (found.mode & 0o077) !== 0) {
      return { what, isOk: false, detail: `others may read ${path}`, hint: `chmod 600 ${path}` };
    }
    return { what, isOk: true, detail: path, hint: '' };
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === undefined) throw error;
    const detail = code === 'ENOENT' ? `${path} does not exist` : `${path} cannot be read (${code})`;
    return { what, isOk: false, detail, hint: 'It must lie on the appliance, readable for the user that runs it.' };
  }
}

function describeEndpoint(uri: string): string {
  const endpoint = parseEndpoint(uri);
  switch (endpoint.kind) {
    case 'local':
      return 'this host';
    case 'ssh':
      return `${endpoint.ssh.host} over ssh`;
    case 'tls':
    case 'tcp':
      return `${endpoint.host} over ${endpoint.kind}`;
    case 'other':
      return `over ${endpoint.transport}`;
  }
}

function describeVersions({ library, hypervisor, type }: Awaited<ReturnType<LibvirtConnection['versions']>>): string {
  return `libvirt ${library.join('.')}, ${type} ${hypervisor.join('.')}`;
}
