// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { systemClock } from '../../appliance/core/clock.ts';
import { GUEST_REQUIREMENTS, startGuest, startLibvirt } from '../support/machines.ts';
import { isAlive } from '../support/process-state.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('libvirt with a real guest', { requires: GUEST_REQUIREMENTS, timeoutMs: 120_000 });

test('the guest boots, mounts its disk and runs commands', async (t) => {
  const { console } = await startGuest(t, await startLibvirt(t));
  assert.equal(await console.expect('cat /data/hello'), 'world');
  assert.deepEqual(await console.run('echo out; echo err >&2; exit 3'), { status: 3, output: 'out\nerr\n' });
  assert.equal(await console.expect('ls /sys/block | grep -c vda; cat /sys/block/vda/serial'), '1\nUNDERSTUDY-1');
  assert.equal((await console.expect('seq 1 20000')).split('\n').length, 20_000);
});

test('a freeze holds back writes of the guest until the thaw', async (t) => {
  const rig = await startLibvirt(t);
  const connected = rig.connection.waitForEvent('agent', (event) => event.isConnected, { timeoutMs: 60_000 });
  const { domain, console } = await startGuest(t, rig);
  await connected;
  assert.equal(await domain.fsFreeze(), 1);
  assert.equal(await domain.agentCommand({ execute: 'guest-fsfreeze-status' }), 'frozen');
  await console.expect('(echo late > /data/late; echo done > /tmp/done) > /dev/null 2>&1 &');
  assert.equal(await console.expect('sleep 0.3; ls /tmp/done 2>/dev/null | wc -l'), '0');
  assert.equal(await domain.fsThaw(), 1);
  await console.expect('i=0; while [ ! -f /tmp/done ] && [ $i -lt 50 ]; do usleep 100000; i=$((i+1)); done');
  assert.equal(await console.expect('cat /data/late'), 'late');
  assert.equal(await domain.fsThaw(), 0);
});

test('an agent that hangs costs its time limit and not more, and is told apart', async (t) => {
  const rig = await startLibvirt(t);
  const connected = rig.connection.waitForEvent('agent', (event) => event.isConnected, { timeoutMs: 60_000 });
  const { domain, console } = await startGuest(t, rig);
  await connected;
  await console.expect('kill -STOP $(pidof qemu-ga)');
  const startedAt = systemClock.elapsedMs();
  await rejectsWith(domain.fsFreeze({ timeoutSeconds: 1 }), 'AGENT_UNAVAILABLE');
  assert.ok(systemClock.elapsedMs() - startedAt < 15_000);
  await console.expect('kill -CONT $(pidof qemu-ga)');
  await domain.fsThaw({ timeoutSeconds: 10 });
  assert.equal(await domain.agentCommand({ execute: 'guest-fsfreeze-status' }), 'thawed');
});

test('a shutdown that the guest does itself arrives as an event', async (t) => {
  const rig = await startLibvirt(t);
  const { domain } = await startGuest(t, rig);
  const stopped = rig.connection.waitForEvent('lifecycle', (event) => event.event === 'stopped');
  await domain.shutdown();
  assert.deepEqual(await stopped, { uuid: domain.uuid, name: 'guest', event: 'stopped', detail: 'shutdown' });
  assert.equal((await domain.state()).state, 'shut-off');
});

test('a guest that runs while its private libvirt closes is ended with it', async (t) => {
  const rig = await startLibvirt(t);
  const { console } = await startGuest(t, rig);
  const [pid] = await rig.libvirt.qemuPids();
  assert.ok(pid !== undefined && isAlive(pid));
  await console.close();
  await rig.connection.close();
  await rig.libvirt.close();
  assert.equal(isAlive(pid), false);
  assert.equal(existsSync(rig.libvirt.directory), false);
});
