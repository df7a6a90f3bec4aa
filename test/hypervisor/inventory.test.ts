// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type InventoryFacts,
  type Machine,
  machineFromXml,
  protectableDisks,
} from '../../appliance/hypervisor/libvirt/inventory.ts';
import { readMachine, readMachines } from '../../appliance/hypervisor/libvirt/read-machine.ts';
import { runTool } from '../../appliance/hypervisor/tool.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('inventory');

const ID = '11111111-2222-4333-8444-555555555555';

function read(devices: string, more: { os?: string; facts?: Partial<InventoryFacts> } = {}): Machine {
  const xml = `<domain type='kvm' id='3'><name>web</name><uuid>${ID}</uuid><os>${more.os ?? ''}</os><devices>${devices}</devices></domain>`;
  return machineFromXml(xml, { state: 'running', ...more.facts });
}

function disk(parts: string, attributes: string = "type='file' device='disk'"): string {
  return `<disk ${attributes}><target dev='vda' bus='virtio'/>${parts}</disk>`;
}

const QCOW2 = "<driver name='qemu' type='qcow2'/>";
const FILE = "<source file='/i/a.qcow2'/>";

test('a qcow2 disk is read whole, with its backing chain', () => {
  const machine = read(
    disk(`<driver name='qemu' type='qcow2' discard='unmap'/><source file='/i/a &amp; b.qcow2' index='1'/>
      <backingStore type='file' index='2'><format type='raw'/><source file='/i/base.raw'/><backingStore/></backingStore>
      <serial>S-1</serial><wwn>5000c50015ea71aa</wwn>`),
    { facts: { sizes: { vda: 4096 }, compat: { vda: '1.1' } } },
  );
  assert.deepEqual([machine.id, machine.name, machine.state], [ID, 'web', 'running']);
  assert.deepEqual(machine.disks, [
    {
      target: 'vda',
      device: 'disk',
      bus: 'virtio',
      serial: 'S-1',
      wwn: '5000c50015ea71aa',
      source: { kind: 'file', path: '/i/a & b.qcow2' },
      format: 'qcow2',
      sizeBytes: 4096,
      isReadOnly: false,
      isShareable: false,
      hasBlockJob: false,
      backingChain: [{ source: { kind: 'file', path: '/i/base.raw' }, format: 'raw' }],
      protection: { kind: 'incremental' },
    },
  ]);
});

test('what cannot be backed up is named with the reason', () => {
  const none: readonly (readonly [string, RegExp])[] = [
    [disk("<source file='/i/x.iso'/><readonly/>", "type='file' device='cdrom'"), /CD-ROM/],
    [disk("<source file='/i/x.img'/>", "type='file' device='floppy'"), /floppy/],
    [disk("<source dev='/dev/sdb'/>", "type='block' device='lun'"), /passed through/],
    [disk(`${QCOW2}${FILE}<shareable/>`), /shared/],
    [disk(`${QCOW2}${FILE}<readonly/>`), /read-only/],
    [disk(QCOW2), /empty/],
    [disk("<source type='unix' path='/x'/>", "type='vhostuser' device='disk'"), /vhostuser/],
  ];
  for (const [xml, reason] of none) {
    const protection = read(xml).disks[0]?.protection;
    assert.equal(protection?.kind, 'none', xml);
    assert.match(protection?.kind === 'none' ? protection.reason : '', reason);
  }
});

test('what has no dirty bitmap is scanned in full, with the reason', () => {
  const network = "<source protocol='rbd' name='pool/vol'><host name='mon1' port='6789'/></source>";
  const full: readonly (readonly [string, RegExp])[] = [
    [disk("<driver name='qemu' type='raw'/><source file='/i/a.raw'/>"), /a raw image/],
    [disk("<source file='/i/a.img'/>"), /a raw image/],
    [disk("<driver type='raw'/><source dev='/dev/vg/lv'/>", "type='block' device='disk'"), /a raw block device/],
    [disk(`<driver type='raw'/>${network}`, "type='network' device='disk'"), /raw on rbd storage/],
    [disk("<driver type='vmdk'/><source file='/i/a.vmdk'/>"), /vmdk/],
    [disk(`${QCOW2}${FILE}<transient/>`), /transient/],
  ];
  for (const [xml, reason] of full) {
    const protection = read(xml).disks[0]?.protection;
    assert.equal(protection?.kind, 'full-scan', xml);
    assert.match(protection?.kind === 'full-scan' ? protection.reason : '', reason);
  }
});

test('a qcow2 of version 2 is scanned in full and the way out is told', () => {
  const old = read(disk(`${QCOW2}${FILE}`), { facts: { compat: { vda: '0.10' } } }).disks[0]?.protection;
  assert.equal(old?.kind, 'full-scan');
  assert.match((old?.kind === 'full-scan' && old.hint) || '', /qemu-img amend -o compat=1\.1/);
});

test('a network disk has its protocol, name and hosts, a volume its pool and path', () => {
  const machine = read(
    disk(
      "<source protocol='nbd' name='e'><host transport='unix' socket='/s'/></source>",
      "type='network' device='disk'",
    ) + "<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb' bus='scsi'/></disk>",
    { facts: { volumePaths: { vdb: '/pool/v' }, formats: { vdb: 'qcow2' } } },
  );
  assert.deepEqual(
    machine.disks.map(({ source, format, protection }) => ({ source, format, kind: protection.kind })),
    [
      { source: { kind: 'network', protocol: 'nbd', name: 'e', hosts: ['/s'] }, format: 'raw', kind: 'full-scan' },
      { source: { kind: 'volume', pool: 'p', volume: 'v', path: '/pool/v' }, format: 'qcow2', kind: 'incremental' },
    ],
  );
});

test('every disk that can be read is protected by default, and only those', () => {
  const machine = read(
    `${disk(`${QCOW2}${FILE}`)}<disk type='file' device='disk'><source file='/r'/><target dev='vdb'/></disk>
     <disk type='file' device='cdrom'><target dev='sda'/></disk>`,
  );
  assert.deepEqual(
    protectableDisks(machine).map(({ target }) => target),
    ['vda', 'vdb'],
  );
});

test('firmware, TPM, agent and passed-through devices are noted', () => {
  const machine = read(
    `<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
     <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
     <hostdev mode='subsystem' type='pci'/><filesystem type='mount'><source dir='/srv'/><target dir='t'/></filesystem>
     <memory model='nvdimm'/><memory model='dimm'/>`,
    { os: "<loader readonly='yes' type='pflash'>/fw/code.fd</loader><nvram template='/fw/vars.fd'>/n/web.fd</nvram>" },
  );
  assert.deepEqual(machine.firmware, {
    kind: 'uefi',
    loaderPath: '/fw/code.fd',
    nvramPath: '/n/web.fd',
    nvramTemplate: '/fw/vars.fd',
  });
  assert.deepEqual(machine.tpm, { model: 'tpm-crb', backend: 'emulator' });
  assert.equal(machine.hasAgentChannel, true);
  assert.deepEqual(
    machine.unprotectedDevices.map(({ device }) => device),
    ['host pci device', 'shared folder /srv', 'persistent memory (nvdimm)'],
  );
  assert.equal(read('').firmware.kind, 'bios');
});

test('XML that is no domain is refused', async () => {
  const bad = ['<network/>', '<domain><name>x</name></domain>', '<domain'];
  for (const xml of bad) {
    await rejectsWith(
      Promise.resolve().then(() => machineFromXml(xml, { state: 'running' })),
      'DOMAIN_XML_INVALID',
    );
  }
});

test(
  'machines of a real daemon have sizes, formats and protection, running or not',
  async (t) => {
    const rig = await startLibvirt(t);
    const disks = [
      { target: 'vda', sizeBytes: 8 * 1024 * 1024 },
      { target: 'vdb', sizeBytes: 1024 * 1024, format: 'raw' },
      { target: 'vdc', options: { compat: '0.10' } },
    ] as const;
    const domain = await definePlainMachine(rig, 'machine', disks);
    const expected = [
      { target: 'vda', sizeBytes: 8 * 1024 * 1024, kind: 'incremental' },
      { target: 'vdb', sizeBytes: 1024 * 1024, kind: 'full-scan' },
      { target: 'vdc', sizeBytes: 16 * 1024 * 1024, kind: 'full-scan' },
    ];
    const summary = (machine: Machine | undefined): unknown =>
      machine?.disks.map(({ target, sizeBytes, protection }) => ({ target, sizeBytes, kind: protection.kind }));
    const [off] = await readMachines(rig.connection);
    assert.deepEqual([off?.state, summary(off)], ['shut-off', expected]);
    await domain.start({ isPaused: true });
    const on = await readMachine(rig.connection, domain);
    assert.deepEqual([on.state, summary(on)], ['paused', expected]);
    assert.deepEqual(on.disks[0]?.source, { kind: 'file', path: join(rig.libvirt.directory, 'machine-vda.qcow2') });
  },
  { requires: LIBVIRT_REQUIREMENTS },
);

test(
  'a disk that names a storage volume is found in its pool',
  async (t) => {
    const rig = await startLibvirt(t);
    const directory = join(rig.libvirt.directory, 'pool');
    await mkdir(directory);
    const virsh = async (...args: string[]): Promise<void> => {
      await runTool('virsh', ['-c', rig.libvirt.uri, ...args]);
    };
    await virsh('pool-create-as', 'images', 'dir', '--target', directory);
    await virsh('vol-create-as', 'images', 'data.qcow2', '4M', '--format', 'qcow2');
    const domain = await rig.connection.define(
      `<domain type='qemu'><name>m</name><memory>65536</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
       <disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='images' volume='data.qcow2'/><target dev='vda' bus='virtio'/></disk>
       <disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='images' volume='absent'/><target dev='vdb' bus='virtio'/></disk>
       </devices></domain>`,
    );
    const { disks } = await readMachine(rig.connection, domain);
    assert.deepEqual(
      disks.map(({ source, sizeBytes }) => ({ source, sizeBytes })),
      [
        {
          source: { kind: 'volume', pool: 'images', volume: 'data.qcow2', path: join(directory, 'data.qcow2') },
          sizeBytes: 4 * 1024 * 1024,
        },
        { source: { kind: 'volume', pool: 'images', volume: 'absent', path: null }, sizeBytes: null },
      ],
    );
  },
  { requires: [...LIBVIRT_REQUIREMENTS, 'virsh'] },
);
