// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ProtectionReport } from '../../appliance/api/operations.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { ApplianceProcess, assertSameBytes } from '../support/appliance-process.ts';
import { Cable } from '../support/cable.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { SSH_REQUIREMENTS, startSshd } from '../support/sshd.ts';
import { suite } from '../support/suite.ts';

const test = suite('a network that is cut', {
  requires: [...LIBVIRT_REQUIREMENTS, ...SSH_REQUIREMENTS],
  timeoutMs: 120_000,
});
const MIB = 1024 * 1024;
const POLL_MS = 100;

/** Writes a MiB into a running machine's disk as its guest would: through QEMU. */
async function fill(domain: Domain, { byte, atMib }: { byte: number; atMib: number }): Promise<Buffer> {
  const line = `qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P ${byte} ${atMib}M 1M"`;
  await domain.monitorCommand({ execute: 'human-monitor-command', arguments: { 'command-line': line } });
  return Buffer.alloc(MIB, byte);
}

async function until(
  appliance: ApplianceProcess,
  isSo: (report: ProtectionReport) => boolean,
): Promise<ProtectionReport> {
  for (;;) {
    const [report] = await appliance.ask<ProtectionReport[]>('protection');
    if (report !== undefined && isSo(report)) return report;
    await delay(POLL_MS);
  }
}

test('ends the intervals of a machine on another host, which go on by themselves afterwards, with the gap shown', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'web');
  await domain.start();
  let cable: Cable | undefined;
  const { uri } = await startSshd(t, {
    via: (port) => {
      cable = t.use(new Cable(port));
      return cable.plug();
    },
  });
  assert.ok(cable);
  const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
  await appliance.ask('init');
  await appliance.serve();
  const connect = uri(join(rig.libvirt.directory, 'r/libvirt/libvirt-sock'));
  await appliance.refused('NOT_SUPPORTED', 'protect', 'web', '--continuous', '--connect', connect);
  const first = await fill(domain, { byte: 1, atMib: 1 });
  await appliance.ask('protect', 'web', '--interval', '1s', '--connect', connect);
  await until(appliance, ({ state }) => state === 'protected');

  await cable.cut();
  const second = await fill(domain, { byte: 2, atMib: 2 });
  const cut = await until(appliance, ({ state }) => state !== 'protected' && state !== 'seeding');
  assert.equal(cut.state, 'behind', cut.reason);
  assert.equal((await domain.state()).state, 'running');
  await cable.plug();
  const back = await until(appliance, ({ state }) => state === 'protected');
  assert.equal(back.gaps.length, 1, JSON.stringify(back.gaps));
  const latest = await appliance.restored('web@latest', '--disk', 'vda');
  assertSameBytes(latest.subarray(MIB, 3 * MIB), Buffer.concat([first, second]), 'the disk after the cut');
  assert.equal(
    latest.subarray(3 * MIB).every((byte) => byte === 0),
    true,
  );
});
