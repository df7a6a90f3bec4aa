// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { systemClock } from '../../appliance/core/clock.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { ConnectionCache } from '../../appliance/hypervisor/libvirt/connection-cache.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { stopProcess } from '../support/process-state.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { runProcess } from '../support/run-process.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('libvirt connection', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });

test('a connection tells versions, host and hypervisor', async (t) => {
  const { connection } = await startLibvirt(t);
  const versions = await connection.versions();
  assert.equal(versions.type, 'QEMU');
  assert.ok(versions.client[0] >= 7);
  assert.deepEqual(versions.library, versions.client);
  assert.ok(versions.hypervisor[0] >= 6);
  assert.match(await connection.capabilities(), /^<capabilities>/);
  assert.equal(await connection.isAlive(), true);
});

test('a cache gives one connection for a URI and a lane, and another one when it was lost', async (t) => {
  const { libvirt } = await startLibvirt(t);
  const cache = t.use(new ConnectionCache());
  const [first, same, other] = await Promise.all([
    cache.get(libvirt.uri),
    cache.get(libvirt.uri),
    cache.get(libvirt.uri, 1),
  ]);
  assert.equal(first, same);
  assert.notEqual(first, other);
  await first.close();
  const next = await cache.get(libvirt.uri);
  assert.notEqual(next, first);
  assert.equal(await cache.get(libvirt.uri, 1), other);
  assert.deepEqual([await next.isAlive(), await other.isAlive()], [true, true]);
});

test('domains are listed, active or not, and found by name and by UUID', async (t) => {
  const rig = await startLibvirt(t);
  const off = await definePlainMachine(rig, 'off');
  const on = await definePlainMachine(rig, 'on');
  await on.start({ isPaused: true });
  const listed = (await rig.connection.domains())
    .map(({ domain, isActive, isPersistent }) => ({ name: domain.name, uuid: domain.uuid, isActive, isPersistent }))
    .sort((a, b) => a.name.localeCompare(b.name));
  assert.deepEqual(listed, [
    { name: 'off', uuid: off.uuid, isActive: false, isPersistent: true },
    { name: 'on', uuid: on.uuid, isActive: true, isPersistent: true },
  ]);
  assert.equal((await rig.connection.domainByName('on')).uuid, on.uuid);
  assert.equal((await rig.connection.domainByUuid(off.uuid)).name, 'off');
  assert.deepEqual([(await off.state()).state, (await on.state()).state], ['shut-off', 'paused']);
});

test('names that are no ASCII come through both ways', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'Müller-サーバー');
  assert.equal((await rig.connection.domainByUuid(domain.uuid)).name, 'Müller-サーバー');
  assert.match(await domain.xml(), /<name>Müller-サーバー<\/name>/);
});

test('every refusal has a code of its own', async (t) => {
  const rig = await startLibvirt(t);
  const { connection } = rig;
  const domain = await definePlainMachine(rig, 'one');
  await rejectsWith(connection.domainByName('absent'), 'DOMAIN_NOT_FOUND');
  await rejectsWith(connection.domainByUuid(randomUUID()), 'DOMAIN_NOT_FOUND');
  await rejectsWith(definePlainMachine(rig, 'one', []), 'DOMAIN_EXISTS');
  await rejectsWith(connection.define('<domain'), 'DOMAIN_XML_INVALID');
  await rejectsWith(connection.storageVolume('pool', 'volume'), 'VOLUME_NOT_FOUND');
  await rejectsWith(domain.destroy(), 'DOMAIN_WRONG_STATE');
  await rejectsWith(domain.backupBegin({ backup: '<domainbackup mode="pull"/>' }), 'DOMAIN_WRONG_STATE');
  await rejectsWith(domain.checkpoint('absent'), 'CHECKPOINT_NOT_FOUND');
  await domain.start({ isPaused: true });
  await rejectsWith(domain.start(), 'DOMAIN_WRONG_STATE');
  await rejectsWith(domain.abortJob(), 'DOMAIN_WRONG_STATE');
  await rejectsWith(domain.backupXml(), 'NO_BACKUP_JOB');
  await domain.resume();
  await rejectsWith(domain.fsFreeze(), 'AGENT_UNAVAILABLE');
  await domain.destroy();
  await domain.undefine();
  await rejectsWith(domain.state(), 'DOMAIN_NOT_FOUND');
});

test('a socket where nobody listens is LIBVIRT_CONNECT_FAILED', async (t) => {
  const directory = await t.tempDir();
  await rejectsWith(
    LibvirtConnection.open(`qemu+unix:///session?socket=${directory}/absent`),
    'LIBVIRT_CONNECT_FAILED',
  );
});

test('a daemon that hangs blocks no other work, and waiting for it ends with TIMED_OUT or ABORTED', async (t) => {
  const libvirt = t.use(await PrivateLibvirt.start());
  const connection = t.use(await LibvirtConnection.open(libvirt.uri, { keepAlive: { intervalSeconds: 1, count: 2 } }));
  const pid = libvirt.pid ?? 0;
  const delay = monitorEventLoopDelay({ resolution: 5 });
  await stopProcess(pid);
  try {
    delay.enable();
    const first = connection.domains({ timeoutMs: 500 });
    const abort = new AbortController();
    const second = connection.versions({ signal: abort.signal });
    setTimeout(() => {
      abort.abort();
    }, 100);
    await rejectsWith(second, 'ABORTED');
    await rejectsWith(first, 'TIMED_OUT');
    delay.disable();
    assert.ok(delay.max < 150e6, `the main thread stood still for ${Math.round(delay.max / 1e6)} ms`);
    // Keepalive ends the connection, and with it the call that hangs.
    await connection.waitForEvent('closed', () => true, { timeoutMs: 20_000 });
    await rejectsWith(connection.domains(), 'LIBVIRT_CONNECTION_LOST');
  } finally {
    process.kill(pid, 'SIGCONT');
  }
});

test('calls that were given up before their turn are never made', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'victim');
  const abort = new AbortController();
  const before = rig.connection.capabilities();
  const undefine = domain.undefine({ signal: abort.signal });
  abort.abort();
  await rejectsWith(undefine, 'ABORTED');
  await before;
  assert.equal((await rig.connection.domainByName('victim')).uuid, domain.uuid);
});

test('a process ends although its libvirt call hangs', async (t) => {
  const libvirt = t.use(await PrivateLibvirt.start());
  const pid = libvirt.pid ?? 0;
  const module = new URL('../../appliance/hypervisor/libvirt/connection.ts', import.meta.url).href;
  const script = `
    const { LibvirtConnection } = await import(${JSON.stringify(module)});
    const connection = await LibvirtConnection.open(${JSON.stringify(libvirt.uri)}, { keepAlive: { intervalSeconds: 600, count: 1 } });
    process.kill(${pid}, 'SIGSTOP');
    connection.domains().catch(() => undefined);
    setTimeout(() => process.exit(7), 300);
  `;
  try {
    const result = await runProcess([process.execPath, await scriptFile(t, script)], { limitMs: 15_000 });
    assert.equal(result.exitCode, 7);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
});

test('a process that leaves a connection open and idle ends by itself', async (t) => {
  const libvirt = t.use(await PrivateLibvirt.start());
  const module = new URL('../../appliance/hypervisor/libvirt/connection.ts', import.meta.url).href;
  const script = `
    const { LibvirtConnection } = await import(${JSON.stringify(module)});
    const connection = await LibvirtConnection.open(${JSON.stringify(libvirt.uri)});
    await connection.domains();
  `;
  const result = await runProcess([process.execPath, await scriptFile(t, script)], { limitMs: 15_000 });
  assert.equal(result.exitCode, 0);
});

test('a killed daemon is a lost connection, and a new connection finds what still runs', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'survivor');
  await domain.start();
  const closed = rig.connection.waitForEvent('closed', () => true);
  await rig.libvirt.killDaemon();
  await closed;
  await rejectsWith(domain.state(), 'LIBVIRT_CONNECTION_LOST');
  assert.equal(rig.connection.isOpen, false);
  await rig.libvirt.startDaemon();
  const again = t.use(await LibvirtConnection.open(rig.libvirt.uri));
  const found = await again.domainByName('survivor');
  assert.deepEqual([found.uuid, (await found.state()).state], [domain.uuid, 'running']);
});

test('a closed connection refuses calls, and closing it twice is allowed', async (t) => {
  const { connection } = await startLibvirt(t);
  await connection.close();
  await connection.close();
  assert.equal(connection.isOpen, false);
  await rejectsWith(connection.domains(), 'CLOSED');
});

test('closing a connection whose daemon hangs takes five seconds and not more', async (t) => {
  const libvirt = t.use(await PrivateLibvirt.start());
  const connection = await LibvirtConnection.open(libvirt.uri, { keepAlive: { intervalSeconds: 7, count: 1 } });
  const pid = libvirt.pid ?? 0;
  await stopProcess(pid);
  try {
    const call = connection.domains();
    call.catch(() => undefined);
    const startedAt = systemClock.elapsedMs();
    await connection.close();
    const tookMs = systemClock.elapsedMs() - startedAt;
    assert.ok(tookMs < 7000, `${tookMs} ms`);
    await rejectsWith(connection.domains(), 'CLOSED');
  } finally {
    process.kill(pid, 'SIGCONT');
  }
});

test('twenty connections open, work and close without leaving threads behind', async (t) => {
  const { libvirt } = await startLibvirt(t);
  for (let round = 0; round < 5; round++) {
    const connections = await Promise.all([1, 2, 3, 4].map(async () => await LibvirtConnection.open(libvirt.uri)));
    await Promise.all(connections.map(async (connection) => await connection.domains()));
    await Promise.all(connections.map(async (connection) => await connection.close()));
  }
  const resources = process.getActiveResourcesInfo().filter((name) => name === 'MessagePort' || name === 'Worker');
  assert.ok(resources.length <= 1, resources.join());
});

test('two private daemons do not see each other', async (t) => {
  const first = await startLibvirt(t);
  const second = await startLibvirt(t);
  await definePlainMachine(first, 'mine');
  assert.deepEqual(await second.connection.domains(), []);
});

async function scriptFile(t: TestContext, script: string): Promise<string> {
  const path = join(await t.tempDir(), 'script.mjs');
  await writeFile(path, script);
  return path;
}
