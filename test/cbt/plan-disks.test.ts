// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { planDisks } from '../../appliance/cbt/plan-disks.ts';
import type { PreviousState } from '../../appliance/cbt/source.ts';
import { type Machine, machineFromXml } from '../../appliance/hypervisor/libvirt/inventory.ts';
import { suite } from '../support/suite.ts';

const test = suite('plan of a backup');
const MIB = 1024 * 1024;
const BASE = { name: 'understudy-0-1' };

function machine(disks: string, sizes: Readonly<Record<string, number>> = { vda: 64 * MIB }): Machine {
  const xml = `<domain><name>web</name><uuid>0b1c2d3e-4f50-4617-8899-aabbccddeeff</uuid><devices>${disks}</devices></domain>`;
  return machineFromXml(xml, { state: 'running', sizes });
}

function disk(target: string, path: string, more = '', format = 'qcow2'): string {
  return `<disk type="file" device="disk"><driver name="qemu" type="${format}"/><source file="${path}"/><target dev="${target}" bus="virtio"/>${more}</disk>`;
}

function previous(identity: Readonly<Record<string, string>>, sizeBytes = 64 * MIB): PreviousState {
  return { tracker: {}, disks: [{ name: 'vda', sizeBytes, identity }] };
}

const PLAIN = disk('vda', '/a.qcow2');
const IDENTITY = { source: 'file:/a.qcow2', format: 'qcow2' };

function kindOf(input: Partial<Parameters<typeof planDisks>[0]>): string {
  const [plan] = planDisks({
    machine: machine(PLAIN),
    previous: previous(IDENTITY),
    base: BASE,
    isFullScanRequested: false,
    ...input,
  });
  return `${plan?.kind}: ${plan?.reason}`;
}

test('the same disk with a base is incremental', () => {
  assert.equal(kindOf({}), 'incremental: changed blocks since checkpoint understudy-0-1');
});

test('without an earlier point it is a full backup', () => {
  assert.equal(kindOf({ previous: undefined }), 'full: first backup');
});

test('without a base it is a full scan for the reason that there is none', () => {
  assert.equal(kindOf({ base: { missing: 'it is gone' } }), 'full-scan: it is gone');
});

test('another size, source, format or serial number is a full scan', () => {
  assert.match(kindOf({ previous: previous(IDENTITY, 32 * MIB) }), /^full-scan: the disk was resized/);
  assert.match(kindOf({ machine: machine(disk('vda', '/b.qcow2')) }), /^full-scan: the disk was replaced: its source/);
  assert.match(
    kindOf({ machine: machine(disk('vda', '/a.qcow2', '<serial>1</serial>')) }),
    /^full-scan: .*serial was not set and is 1/,
  );
  assert.match(kindOf({ machine: machine(disk('vda', '/a.qcow2', '', 'raw')) }), /^full-scan: a raw image/);
});

test('a size that nobody knows is no proof', () => {
  assert.match(kindOf({ machine: machine(PLAIN, {}) }), /^full-scan: the disk was resized .* unknown/);
});

test('a full scan can be asked for', () => {
  assert.equal(kindOf({ isFullScanRequested: true }), 'full-scan: a full scan was asked for');
});

test('a disk that the last point does not have is taken whole, others stay incremental', () => {
  const plans = planDisks({
    machine: machine(PLAIN + disk('vdb', '/c.qcow2'), { vda: 64 * MIB, vdb: MIB }),
    previous: previous(IDENTITY),
    base: BASE,
    isFullScanRequested: false,
  });
  assert.deepEqual(
    plans.map(({ kind }) => kind),
    ['incremental', 'full'],
  );
});
