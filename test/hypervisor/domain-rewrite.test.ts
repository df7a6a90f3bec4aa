// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readMarker } from '../../appliance/hypervisor/libvirt/domain-marker.ts';
import { type RewrittenDomain, rewriteDomain } from '../../appliance/hypervisor/libvirt/domain-rewrite.ts';
import type { HostFacts, RewritePlan } from '../../appliance/hypervisor/libvirt/rewrite-plan.ts';
import {
  attributeOf,
  childrenOf,
  find,
  parseXml,
  textOf,
  type XmlElement,
} from '../../appliance/hypervisor/libvirt/xml.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('stand-in definitions');

const OLD_UUID = '11111111-2222-4333-8444-555555555555';
const NEW_UUID = '99999999-8888-4777-8666-555555555555';
const OLD_MAC = '52:54:00:aa:bb:cc';

const BARE_HOST: HostFacts = { hasPath: () => false, hasBridge: () => false, hasNetwork: () => false };
const FULL_HOST: HostFacts = { hasPath: () => true, hasBridge: () => true, hasNetwork: () => true };

const PLAN: RewritePlan = {
  name: 'web-understudy',
  uuid: NEW_UUID,
  keepsMacAddresses: false,
  keepsNetwork: false,
  disks: { vda: { kind: 'nbd', socketPath: '/run/e.sock', exportName: 'point-1-vda', reconnectSeconds: 60 } },
  marker: { purpose: 'boot', point: 'p1', machine: OLD_UUID, owner: 'r1' },
};

const DISK = `<disk type='file' device='disk' snapshot='external'>
      <driver name='qemu' type='qcow2' cache='writeback' io='threads' queues='4' discard='ignore' iothread='1'/>
      <source file='/i/web.qcow2' index='2'><seclabel model='dac' relabel='no'/></source>
      <backingStore type='file'><format type='raw'/><source file='/i/base.raw'/></backingStore>
      <blockio logical_block_size='4096' physical_block_size='4096'/>
      <target dev='vda' bus='virtio'/>
      <serial>S-1</serial><boot order='1'/><alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>`;

function rewrite(
  devices: string,
  more: { plan?: Partial<RewritePlan>; host?: HostFacts; head?: string } = {},
): RewrittenDomain {
  const xml = `<domain type='kvm' id='7'>
  <name>web</name>
  <uuid>${OLD_UUID}</uuid>
  ${more.head ?? ''}
  <memory unit='KiB'>1048576</memory>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <cpu mode='host-model' check='partial'/>
  <devices>${devices}</devices>
</domain>`;
  return rewriteDomain(xml, { ...PLAN, ...more.plan }, more.host ?? FULL_HOST);
}

function devicesOf({ xml }: RewrittenDomain): XmlElement[] {
  return childrenOf(find(parseXml(xml), 'devices'));
}

function onlyDevice(rewritten: RewrittenDomain): XmlElement {
  const [device, ...others] = devicesOf(rewritten);
  assert.equal(others.length, 0);
  assert.ok(device !== undefined);
  return device;
}

test('name, UUID and marker are new; memory, processor and machine type are not', () => {
  const result = rewrite(DISK);
  const domain = parseXml(result.xml);
  assert.deepEqual(domain.attributes, { type: 'kvm' });
  assert.deepEqual([textOf(find(domain, 'name')), textOf(find(domain, 'uuid'))], ['web-understudy', NEW_UUID]);
  assert.deepEqual(find(domain, 'cpu')?.attributes, { mode: 'host-model', check: 'partial' });
  assert.equal(attributeOf(find(domain, 'os/type'), 'machine'), 'pc-q35-7.2');
  assert.deepEqual(readMarker(result.xml), PLAN.marker);
  assert.deepEqual(result.changes, [
    'The name is web-understudy instead of web.',
    `The UUID is ${NEW_UUID} instead of ${OLD_UUID}.`,
    'Disk vda reads from the export point-1-vda.',
  ]);
});

test('a disk moves to its export in the same slot, with what the guest sees of it unchanged', () => {
  const disk = onlyDevice(rewrite(DISK));
  assert.deepEqual(disk.attributes, { type: 'network', device: 'disk' });
  assert.deepEqual(
    childrenOf(disk).map(({ name }) => name),
    ['driver', 'source', 'blockio', 'target', 'serial', 'boot', 'address'],
  );
  assert.deepEqual(find(disk, 'driver')?.attributes, {
    queues: '4',
    iothread: '1',
    name: 'qemu',
    type: 'raw',
    cache: 'none',
    discard: 'unmap',
  });
  const source = find(disk, 'source');
  assert.deepEqual(source?.attributes, { protocol: 'nbd', name: 'point-1-vda' });
  assert.deepEqual(find(source, 'host')?.attributes, { transport: 'unix', socket: '/run/e.sock' });
  assert.deepEqual(find(source, 'reconnect')?.attributes, { delay: '60' });
});

test('a restored disk is a local file in its format, and an identity can be kept', () => {
  const result = rewrite(
    `${DISK}<interface type='bridge'><mac address='${OLD_MAC}'/><source bridge='br0'/></interface>`,
    {
      plan: {
        name: 'web',
        uuid: OLD_UUID,
        keepsMacAddresses: true,
        keepsNetwork: true,
        disks: { vda: { kind: 'file', path: '/r/web.qcow2', format: 'qcow2' } },
        marker: { ...PLAN.marker, purpose: 'restore' },
      },
    },
  );
  const [disk, card] = devicesOf(result);
  assert.deepEqual(disk?.attributes, { type: 'file', device: 'disk' });
  assert.equal(attributeOf(find(disk, 'source'), 'file'), '/r/web.qcow2');
  assert.equal(attributeOf(find(disk, 'driver'), 'type'), 'qcow2');
  assert.equal(attributeOf(find(card, 'mac'), 'address'), OLD_MAC);
  assert.equal(find(card, 'link'), undefined);
  assert.deepEqual(result.changes, ['Disk vda reads from /r/web.qcow2.']);
});

test('a disk without a replacement is left out and never attached to the stand-in', () => {
  const result = rewrite(
    `${DISK}<disk type='block' device='disk'><source dev='/dev/sdb'/><target dev='vdb'/><shareable/></disk>`,
  );
  assert.equal(devicesOf(result).length, 1);
  assert.ok(result.changes.includes('Disk vdb is not in the recovery point and is left out.'));
});

test('a CD stays when it is there, and is taken out when it is not', () => {
  const cd = "<disk type='file' device='cdrom'><source file='/i/x.iso'/><target dev='sda'/><readonly/></disk>";
  assert.equal(attributeOf(find(onlyDevice(rewrite(cd)), 'source'), 'file'), '/i/x.iso');
  const gone = rewrite(cd, { host: BARE_HOST, plan: { disks: {} } });
  assert.equal(find(onlyDevice(gone), 'source'), undefined);
  assert.ok(gone.changes.includes('The CD drive sda is empty: /i/x.iso is not on this host.'));
});

test('network cards get new addresses of their own and no link', () => {
  const card = `<interface type='bridge'><mac address='${OLD_MAC}'/><source bridge='br0'/><target dev='vnet3'/><model type='virtio'/></interface>`;
  const first = rewrite(card + card);
  const addresses = devicesOf(first).map((device) => attributeOf(find(device, 'mac'), 'address') ?? '');
  for (const address of addresses) assert.match(address, /^52:54:00(:[0-9a-f]{2}){3}$/);
  assert.equal(new Set([...addresses, OLD_MAC]).size, 3);
  assert.equal(rewrite(card + card).xml, first.xml);
  for (const device of devicesOf(first)) {
    assert.equal(attributeOf(find(device, 'link'), 'state'), 'down');
    assert.equal(find(device, 'target'), undefined);
    assert.equal(attributeOf(find(device, 'source'), 'bridge'), 'br0');
  }
});

test('a card whose network is not here is isolated, also when the network was to be kept', () => {
  const cards = [
    "<interface type='bridge'><source bridge='br7'/><model type='e1000'/><bandwidth/></interface>",
    "<interface type='network'><source network='lan'/><model type='e1000'/></interface>",
    "<interface type='direct'><source dev='eth9'/><model type='e1000'/></interface>",
    "<interface type='hostdev' managed='yes'><source><address type='pci'/></source><model type='e1000'/></interface>",
  ];
  for (const xml of cards) {
    const result = rewrite(xml, { host: BARE_HOST, plan: { keepsNetwork: true } });
    const card = onlyDevice(result);
    assert.deepEqual(card.attributes, { type: 'user' });
    assert.equal(find(card, 'source'), undefined);
    assert.equal(attributeOf(find(card, 'model'), 'type'), 'e1000');
    assert.equal(attributeOf(find(card, 'link'), 'state'), 'down');
    assert.ok(result.changes.some((change) => change.includes('no link and no network')));
  }
});

test('devices of the original host are left out, one sentence for each', () => {
  const result = rewrite(
    `<hostdev mode='subsystem' type='pci'/><filesystem type='mount'><source dir='/srv'/></filesystem>
     <shmem name='ivshmem'/><lease/><memory model='nvdimm'/>
     <tpm model='tpm-tis'><backend type='passthrough'/></tpm><redirdev bus='usb' type='tcp'/>
     <video><model type='virtio'/></video>`,
  );
  assert.deepEqual(
    devicesOf(result).map(({ name }) => name),
    ['video'],
  );
  assert.equal(result.changes.filter((change) => change.includes('is left out')).length, 7);
});

test('serial ports, channels and screens cannot collide with those of the original', () => {
  const result = rewrite(
    `<serial type='file'><source path='/log/web'/><target port='0'/><log file='/log/l'/><alias name='serial0'/></serial>
     <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><target type='serial' port='0'/></console>
     <channel type='unix'><source mode='bind' path='/c/web'/><target type='virtio' name='org.qemu.guest_agent.0'/><alias name='ua-mine'/></channel>
     <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
     <graphics type='vnc' port='5901' autoport='no' listen='0.0.0.0'><listen type='address' address='0.0.0.0'/></graphics>
     <vsock model='virtio'><cid auto='no' address='4'/></vsock>`,
  );
  const [serial, console, agent, spice, graphics, vsock] = devicesOf(result);
  assert.equal(attributeOf(serial, 'type'), 'pty');
  assert.deepEqual(
    childrenOf(serial).map(({ name }) => name),
    ['target'],
  );
  assert.deepEqual(console?.attributes, { type: 'pty' });
  assert.equal(find(console, 'source'), undefined);
  assert.deepEqual(
    childrenOf(agent).map(({ name }) => name),
    ['target', 'alias'],
  );
  assert.equal(attributeOf(spice, 'type'), 'spicevmc');
  assert.deepEqual(graphics?.attributes, { type: 'vnc', autoport: 'yes', listen: '0.0.0.0', port: '-1' });
  assert.deepEqual(find(vsock, 'cid')?.attributes, { auto: 'yes' });
});

test("the firmware's variables come from the restored copy, or start fresh", () => {
  const os = (nvram: string): string =>
    `<domain><name>a</name><uuid>${OLD_UUID}</uuid><os><loader type='pflash'>/fw/code.fd</loader>${nvram}</os><devices/></domain>`;
  const saved = os("<nvram template='/fw/vars.fd'>/n/web.fd</nvram>");
  const restored = rewriteDomain(saved, { ...PLAN, nvramPath: '/r/new.fd' }, FULL_HOST);
  const nvram = find(parseXml(restored.xml), 'os/nvram');
  assert.deepEqual([textOf(nvram), attributeOf(nvram, 'template')], ['/r/new.fd', '/fw/vars.fd']);
  const fresh = rewriteDomain(saved, PLAN, BARE_HOST);
  assert.equal(textOf(find(parseXml(fresh.xml), 'os/nvram')), undefined);
  assert.ok(fresh.changes.some((change) => change.includes('fresh ones')));
  assert.ok(fresh.changes.some((change) => change.includes('/fw/code.fd')));
});

test('SMBIOS, generation id, labels and emulator follow the new identity and host', () => {
  const head = `<genid>11111111-0000-4000-8000-000000000000</genid>
    <sysinfo type='smbios'><system><entry name='uuid'>${OLD_UUID}</entry><entry name='serial'>X</entry></system></sysinfo>
    <seclabel type='dynamic' model='apparmor'/>`;
  const domain = parseXml(rewrite('<emulator>/opt/qemu</emulator>', { head, host: BARE_HOST }).xml);
  const entries = childrenOf(find(domain, 'sysinfo/system'), 'entry').map((entry) => textOf(entry));
  assert.deepEqual(entries, [NEW_UUID, 'X']);
  assert.match(
    textOf(find(domain, 'genid')) ?? '',
    /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
  );
  assert.equal(find(domain, 'seclabel'), undefined);
  assert.equal(find(domain, 'devices/emulator'), undefined);
});

test("other tools' metadata stay, an older marker is replaced, and foreign domains have none", () => {
  const head = `<metadata><lib:os xmlns:lib='urn:lib'/><understudy:domain xmlns:understudy='https://understudy.dev/xmlns/domain/1' purpose='boot' point='old' machine='m' owner='o'/></metadata>`;
  const { xml } = rewrite(DISK, { head });
  assert.deepEqual(
    childrenOf(find(parseXml(xml), 'metadata')).map(({ name }) => name),
    ['lib:os', 'understudy:domain'],
  );
  assert.equal(readMarker(xml)?.point, 'p1');
  assert.equal(
    readMarker(
      `<domain><metadata><understudy:domain xmlns:understudy='urn:other' purpose='boot'/></metadata></domain>`,
    ),
    undefined,
  );
  assert.equal(readMarker('<domain><name>x</name></domain>'), undefined);
});

test('a definition that is none is refused', async () => {
  for (const xml of ['<network/>', '<domain><name>x</name></domain>', 'x']) {
    await rejectsWith(
      Promise.resolve().then(() => rewriteDomain(xml, PLAN, FULL_HOST)),
      'DOMAIN_XML_INVALID',
    );
  }
});
