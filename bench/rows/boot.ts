// SPDX-License-Identifier: Apache-2.0
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import type { BenchContext } from '../bench-context.ts';
import type { Comparison } from '../comparison.ts';
import { randomBytesOf } from '../generated-content.ts';
import { ServiceProcess, UNATTENDED } from '../service-process.ts';

const GUEST = 'bench-guest';
const BOOTED = 'bench-booted';
const DISK_BYTES: number = 1024 ** 3;
const CONTENT_BYTES: number = 64 * 1024 ** 2;
const NEEDED: readonly string[] = ['libvirtd', 'qemu-system-x86_64', 'mke2fs', 'busybox'];

/**
 * From the call for a boot to the first answer of the guest's shell, which has mounted its disk by then, against starting
 * the same guest from its own qcow2 image. Both in one libvirt of our own.
 */
export async function boot(bench: BenchContext): Promise<Comparison[]> {
  const ours: number[] = [];
  const local: number[] = [];
  const missing: string[] = [];
  for (const command of NEEDED) if (!(await bench.has(command))) missing.push(command);
  const notes: string[] = [];
  if (missing.length > 0) notes.push(`missing here: ${missing.join(', ')}`);
  else notes.push(`under ${await measure(bench, ours, local)}`);
  return [
    {
      what: 'API call → booted guest answers from user space',
      unit: 's',
      ours: { label: 'understudy boot', samples: ours },
      other: { label: 'start from a local qcow2', samples: local },
      target: { kind: 'ratio at most', limit: 1.3 },
      notes,
      ...(missing.length > 0 ? { missing: 'peer missing' } : {}),
    },
  ];
}

async function measure(bench: BenchContext, ours: number[], local: number[]): Promise<string> {
  bench.say('boot: a guest in a libvirt of our own');
  await using libvirt = await PrivateLibvirt.start();
  await using connection = await LibvirtConnection.open(libvirt.uri);
  const image = await guestImage();
  const acceleration = await probeAcceleration(image);
  const path = bench.workspace.path('guest.qcow2');
  const files = { hello: 'from the disk', content: randomBytesOf(7, CONTENT_BYTES) };
  await createDataDisk({ path, sizeBytes: DISK_BYTES, format: 'qcow2', files });
  const disks = [{ path, format: 'qcow2', target: 'vda', serial: 'DATA-1' }] as const;
  const domain = await connection.define(guestDomainXml({ name: GUEST, image, acceleration, disks }));
  const state = bench.workspace.statePath('state-boot');
  await bench.understudy.init(state);
  const { probeDirectory } = bench.workspace;
  const service = await ServiceProcess.start(state, { probeDirectory, connect: libvirt.uri });
  try {
    const { point } = await service.appliance.backup({ target: GUEST, connect: libvirt.uri }, UNATTENDED);
    for (let round = 0; round < bench.options.rounds; round++) {
      bench.say(`boot, round ${round + 1} of ${bench.options.rounds}: understudy`);
      ours.push(await bootPoint(service, connection, { point, uri: libvirt.uri }));
      bench.say('  from the local image');
      local.push(await startLocal(domain));
    }
  } finally {
    bench.use('boot', await service.close());
  }
  await domain.undefine();
  return acceleration === 'kvm' ? 'KVM' : "QEMU's software emulation";
}

async function bootPoint(
  { appliance }: ServiceProcess,
  connection: LibvirtConnection,
  what: { readonly point: string; readonly uri: string },
): Promise<number> {
  const began = systemClock.elapsedMs();
  await appliance.boot({ point: what.point, as: BOOTED, connect: what.uri }, UNATTENDED);
  const elapsed = await answerOf(await connection.domainByName(BOOTED), began);
  await appliance.stop({ name: BOOTED, discard: true }, UNATTENDED);
  return elapsed;
}

async function startLocal(domain: Domain): Promise<number> {
  const began = systemClock.elapsedMs();
  await domain.start();
  const elapsed = await answerOf(domain, began);
  await domain.destroy();
  return elapsed;
}

/** Seconds until the guest's shell has read a file of its disk. */
async function answerOf(domain: Domain, beganMs: number): Promise<number> {
  await using console = await GuestConsole.of(domain);
  const content = await console.expect('cat /data/hello');
  const elapsed = (systemClock.elapsedMs() - beganMs) / 1000;
  if (content !== 'from the disk') throw new ApplianceError('INTERNAL', 'the guest sees another disk');
  return elapsed;
}
