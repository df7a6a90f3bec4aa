// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { InvariantViolation } from '../../appliance/core/invariant.ts';
import { backupXml, checkpointXml } from '../../appliance/hypervisor/libvirt/backup-xml.ts';
import { suite } from '../support/suite.ts';

const test = suite('backup and checkpoint XML');

test('a pull backup names every disk, with its export, base, bitmap and scratch file', () => {
  const xml = backupXml({
    server: { kind: 'unix', socketPath: '/run/b.sock' },
    disks: [
      { target: 'vda', exportName: 'vda', mode: { kind: 'full' }, scratchPath: '/s/vda' },
      {
        target: 'sdb',
        exportName: 'second & last',
        mode: { kind: 'incremental', checkpoint: 'understudy-1' },
        exportBitmap: 'changed',
        scratchPath: '/s/"sdb"',
      },
    ],
    excludedTargets: ['hdc'],
  });
  assert.equal(
    xml,
    '<domainbackup mode="pull"><server transport="unix" socket="/run/b.sock"/><disks>' +
      '<disk name="vda" backup="yes" type="file" backupmode="full" exportname="vda"><scratch file="/s/vda"/></disk>' +
      '<disk name="sdb" backup="yes" type="file" backupmode="incremental" incremental="understudy-1" ' +
      'exportname="second &amp; last" exportbitmap="changed"><scratch file="/s/&quot;sdb&quot;"/></disk>' +
      '<disk name="hdc" backup="no"/></disks></domainbackup>\n',
  );
});

test('a checkpoint names the disks with a bitmap and those without', () => {
  const xml = checkpointXml({ name: 'c1', description: 'a < b', targets: ['vda'], excludedTargets: ['vdb'] });
  assert.equal(
    xml,
    '<domaincheckpoint><name>c1</name><description>a &lt; b</description><disks>' +
      '<disk name="vda" checkpoint="bitmap"/><disk name="vdb" checkpoint="no"/></disks></domaincheckpoint>\n',
  );
});

test('a plan that QEMU could not carry out is a defect of the caller', () => {
  const full = { target: 'vda', exportName: 'vda', mode: { kind: 'full' }, scratchPath: '/s' } as const;
  const plan = { server: { kind: 'unix', socketPath: '/run/b.sock' }, disks: [full], excludedTargets: [] } as const;
  assert.throws(() => backupXml({ ...plan, disks: [] }), InvariantViolation);
  assert.throws(
    () => backupXml({ ...plan, server: { kind: 'unix', socketPath: `/${'é'.repeat(54)}` } }),
    InvariantViolation,
  );
  assert.throws(() => backupXml({ ...plan, disks: [{ ...full, exportBitmap: 'b' }] }), InvariantViolation);
});
