// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { compareDevices } from '../../appliance/block/compare-devices.ts';
import { openFileDevice } from '../../appliance/block/file-device.ts';
import { backupXml } from '../../appliance/hypervisor/libvirt/backup-xml.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { runTool } from '../../appliance/hypervisor/tool.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { BackupRig } from '../protect/backup-rig.ts';
import { freePort, makeAuthority } from '../support/certificates.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { SSH_REQUIREMENTS, startSshd } from '../support/sshd.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

/* Machines of other hosts: this host, reached as others are, over a real sshd and over TLS. */

const test = suite('a hypervisor on another host', {
  requires: [...LIBVIRT_REQUIREMENTS, 'qemu-io'],
  timeoutMs: 120_000,
});
const SSH = { requires: SSH_REQUIREMENTS };

/** Writes into a running machine's disk as its guest would: through QEMU, so that bitmaps see it. */
async function qemuIo(domain: Domain, command: string): Promise<void> {
  const reply = await domain.monitorCommand({
    execute: 'human-monitor-command',
    arguments: { 'command-line': `qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "${command}"` },
  });
  assert.doesNotMatch(String(reply), /failed|error/i, `${command}: ${String(reply)}`);
}

/** A whole and an incremental backup over `uri` of a machine that runs, both compared with what its image held. */
async function backUpTwice(
  t: TestContext,
  rig: LibvirtRig,
  { uri, server }: { readonly uri: string; readonly server: RegExp },
): Promise<void> {
  const backups = await BackupRig.create(t, uri);
  const domain = await definePlainMachine(rig, 'web');
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  await runTool('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0xaa 0 12M', image]);
  const copies = await t.tempDir();
  const copy = async (name: string): Promise<string> => {
    await runTool('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', image, join(copies, name)]);
    return join(copies, name);
  };
  const before = await copy('before');
  await domain.start();
  const jobs: Promise<string>[] = [];
  const first = await backups.backup('web', { onProgress: () => jobs.push(domain.backupXml().catch(() => '')) });
  assert.match((await Promise.all(jobs)).join('\n'), server);
  assert.equal(first.point.kind, 'full');
  await qemuIo(domain, 'write -P 0xbb 1M 64k');
  await qemuIo(domain, 'write -z 4M 1M');
  const second = await backups.backup('web');
  assert.equal(second.point.kind, 'incremental', second.point.reason);
  assert.equal(second.point.disks[0]?.stats.readBytes, 64 * 1024);
  await rejectsWith(domain.backupXml(), 'NO_BACKUP_JOB');
  await domain.destroy();
  const after = await copy('after');
  for (const [point, path] of [
    [first.point, before],
    [second.point, after],
  ] as const) {
    await using expected = await openFileDevice(path, 'read-only');
    assert.equal(await compareDevices(backups.device(point, 'vda'), expected), undefined, point.kind);
  }
  await rejectsWith(backups.backup('web'), 'NOT_SUPPORTED');
}

function socketOf(libvirt: PrivateLibvirt): string {
  return join(libvirt.directory, 'r/libvirt/libvirt-sock');
}

test(
  'is backed up over ssh, whole and incrementally, bit by bit',
  async (t) => {
    const rig = await startLibvirt(t);
    const { uri } = await startSshd(t);
    await backUpTwice(t, rig, {
      uri: uri(socketOf(rig.libvirt)),
      server: /<server transport='tcp' tls='no' name='127\.0\.0\.1' port='10[89]\d\d'/,
    });
  },
  SSH,
);

test(
  'whose sshd forwards nothing is BACKUP_UNREACHABLE, and no job and no checkpoint are left',
  async (t) => {
    const rig = await startLibvirt(t);
    const { uri } = await startSshd(t, { settings: ['AllowTcpForwarding no'] });
    const backups = await BackupRig.create(t, uri(socketOf(rig.libvirt)));
    const domain = await definePlainMachine(rig, 'web');
    await domain.start();
    await rejectsWith(backups.backup('web'), 'BACKUP_UNREACHABLE');
    await rejectsWith(domain.backupXml(), 'NO_BACKUP_JOB');
    assert.deepEqual(await domain.checkpoints(), []);
    await domain.destroy();
  },
  SSH,
);

interface TlsRig extends LibvirtRig {
  readonly uri: string;
}

/** A daemon that listens for TLS; QEMU has certificates of the same authority, or none. */
async function startTls(t: TestContext, hasQemuCertificates: boolean): Promise<TlsRig> {
  const directory = await t.tempDir();
  const pki = await makeAuthority(join(directory, 'pki'));
  const qemu = join(directory, 'qemu');
  await mkdir(qemu);
  if (hasQemuCertificates) {
    for (const [from, to] of [
      ['cacert', 'ca-cert'],
      ['servercert', 'server-cert'],
      ['serverkey', 'server-key'],
    ] as const) {
      await copyFile(join(pki, `${from}.pem`), join(qemu, `${to}.pem`));
    }
  }
  const port = await freePort();
  const libvirt = t.use(
    await PrivateLibvirt.start({
      qemuConf: [`backup_tls_x509_cert_dir = "${qemu}"`, 'backup_tls_x509_verify = 1'],
      tls: {
        port,
        authorityPath: join(pki, 'cacert.pem'),
        certificatePath: join(pki, 'servercert.pem'),
        keyPath: join(pki, 'serverkey.pem'),
      },
    }),
  );
  const connection = t.use(await LibvirtConnection.open(libvirt.uri));
  return { libvirt, connection, uri: `qemu+tls://localhost:${port}/session?pkipath=${pki}` };
}

test(
  'is backed up over TLS, whole and incrementally, bit by bit',
  async (t) => {
    const rig = await startTls(t, true);
    await backUpTwice(t, rig, {
      uri: rig.uri,
      server: /<server transport='tcp' tls='yes' name='[0-9.:]+' port='10[89]\d\d'/,
    });
  },
  { requires: ['certtool'] },
);

test(
  'whose QEMU has no certificates is BACKUP_UNREACHABLE: nothing goes in the clear',
  async (t) => {
    const rig = await startTls(t, false);
    const backups = await BackupRig.create(t, rig.uri);
    const domain = await definePlainMachine(rig, 'web');
    await domain.start();
    await rejectsWith(backups.backup('web'), 'BACKUP_UNREACHABLE');
    await rejectsWith(domain.backupXml(), 'NO_BACKUP_JOB');
    assert.deepEqual(await domain.checkpoints(), []);
    await domain.destroy();
  },
  { requires: ['certtool'] },
);

test('a job on TCP that a dead run left is known by the names of its exports and ended, and no other is', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  await domain.start();
  const begin = async (exportName: string): Promise<void> => {
    const scratchPath = join(rig.libvirt.directory, `${exportName.slice(0, 5)}.scratch`);
    const server = { kind: 'tcp', address: '127.0.0.1', port: await freePort(), isTls: false } as const;
    const disks = [{ target: 'vda', exportName, mode: { kind: 'full' }, scratchPath }] as const;
    await domain.backupBegin({ backup: backupXml({ server, disks, excludedTargets: [] }) });
  };
  await begin('other/vda');
  await rejectsWith(backups.backup('web'), 'DOMAIN_BUSY');
  assert.match(await domain.backupXml(), /exportname='other\/vda'/);
  await domain.endBackup('other/');
  await begin(`understudy-${backups.fixture.repository.config.id.slice(0, 8)}-0123456789abcdef/vda`);
  const { notices } = await backups.backup('web');
  assert.ok(
    notices.some((sentence) => sentence.includes('interrupted run')),
    notices.join('; '),
  );
  await domain.destroy();
});
