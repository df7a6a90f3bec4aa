// SPDX-License-Identifier: Apache-2.0
// time limit: 600 s
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import type { BackupReport } from '../../appliance/api/operations.ts';
import type {
  FailbackReport,
  FailoverReport,
  StandbySummary,
  StandbyTestReport,
} from '../../appliance/api/schemas/standbys.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { consoleOf, GUEST_REQUIREMENTS } from '../support/machines.ts';
import { isAlive } from '../support/process-state.ts';
import { suite } from '../support/suite.ts';
import { MACHINE, SPARE, StandbyRig, sumOf } from './standby-rig.ts';

const test = suite('standby', { requires: [...GUEST_REQUIREMENTS, 'qemu-nbd', 'setpriv'], timeoutMs: 200_000 });
const shared = test.share((t) => StandbyRig.create(t));
const MIB = 1024 * 1024;

/* Each test begins with the original running and its spare ready, and ends so. */

test('a test of the spare measures, and leaves nothing; a spare cannot be started by hand', async () => {
  const rig = await shared();
  const { appliance } = rig;
  const spare = await rig.spare();
  assert.equal((await spare.state()).state, 'shut-off');
  assert.equal(await spare.autostart(), false);
  await assert.rejects(spare.start());
  await appliance.refused('BAD_ARGUMENT', 'standby', 'test', MACHINE, '--expect', '(');
  const tested = await appliance.ask<StandbyTestReport>(
    'standby',
    'test',
    MACHINE,
    '--expect',
    '^understudy: guest is up',
  );
  assert.ok(tested.answeredMs >= tested.bootedMs);
  assert.ok(tested.shownMs !== null && tested.shownMs >= tested.bootedMs);
  assert.deepEqual(await appliance.ask('booted'), []);
  assert.equal(await rig.state(rig.original()), 'running');
});

test('a failover that did not get to its end is undone', async () => {
  const rig = await shared();
  const { appliance } = rig;
  const running = appliance.start('failover', MACHINE, '--force', '--json');
  const phase = await rig.killIn('fencing', 'fenced', 'booting');
  await running.result;
  await rig.restartService();
  assert.ok(['fencing', 'fenced', 'booting'].includes(phase));
  const undone = await appliance.ask<StandbySummary>('failover', MACHINE, '--undo');
  assert.equal(undone.phase, 'ready');
  assert.equal(await rig.state(rig.original()), 'running');
  assert.equal(await (await rig.original()).autostart(), true);
  assert.equal(await rig.state(rig.spare()), 'shut-off');
  assert.deepEqual(await appliance.ask('booted'), []);
  await rig.forgetShell();
});

test('a service that is killed in a failover or a failback goes on where it stood', async () => {
  const rig = await shared();
  const { appliance } = rig;
  const shell = await rig.originalShell();
  await shell.expect('echo killed > /data/last; sync');
  const before = await sumOf(shell);
  const died: string[] = [];
  for (const phase of ['fencing', 'booting'] as const) {
    const running = appliance.start('failover', MACHINE, '--json');
    died.push(await rig.killIn(phase, 'running'));
    await running.result;
    await rig.restartService();
    if (died.at(-1) === 'running') break;
  }
  if (died.at(-1) !== 'running') await appliance.ask<FailoverReport>('failover', MACHINE);
  await rig.forgetShell();
  assert.equal((await rig.standby()).phase, 'running');
  assert.equal(await rig.state(rig.original()), 'shut-off');
  const spareShell = await rig.spareShell();
  assert.equal(await spareShell.expect('cat /data/last'), 'killed');
  assert.equal(await sumOf(spareShell), before);

  await spareShell.expect(
    'echo spare > /data/spare; dd if=/dev/urandom of=/dev/vdb bs=1M seek=30 count=20 2>/dev/null; sync',
  );
  const written = await sumOf(spareShell);
  const running = appliance.start('failback', MACHINE, '--json');
  assert.equal(await rig.killIn('returning'), 'returning');
  await running.result;
  await rig.restartService();
  await appliance.refused('STANDBY_BUSY', 'backup', MACHINE, '--connect', rig.one.libvirt.uri);
  const again = appliance.start('failback', MACHINE, '--json');
  assert.equal(await rig.killIn('returned'), 'returned');
  await again.result;
  await rig.restartService();
  await appliance.ask<FailbackReport>('failback', MACHINE);
  assert.equal((await rig.standby()).phase, 'ready');
  assert.equal(await (await rig.original()).autostart(), true);
  const originalShell = await rig.originalShell();
  assert.equal(await originalShell.expect('cat /data/last /data/spare'), 'killed\nspare');
  assert.equal(await sumOf(originalShell), written);
});

test('a planned failover of a machine under continuous protection loses nothing, and the failback returns exactly what the spare wrote', async () => {
  const rig = await shared();
  const { appliance } = rig;
  await rig.protect();
  const shell = await rig.originalShell();
  // Written after the point, and not flushed by anybody: the shutdown of the guest is.
  await shell.expect('echo last > /data/last; head -c 3000000 /dev/urandom > /dev/vdb; sync');
  const before = await sumOf(shell);
  const over = await appliance.ask<FailoverReport>('failover', MACHINE);
  await rig.forgetShell();
  assert.equal(over.planned, true);
  assert.equal(await rig.state(rig.original()), 'shut-off');
  assert.equal(await (await rig.original()).autostart(), false);
  const spareShell = await rig.spareShell();
  assert.equal(await spareShell.expect('cat /data/last'), 'last');
  assert.equal(await sumOf(spareShell), before);
  assert.match(await (await rig.spare()).xml(), /52:54:00:11:22:33/);
  await appliance.refused('STANDBY_BUSY', 'failover', MACHINE);
  await appliance.refused('STANDBY_BUSY', 'stop', SPARE, '--discard');
  await appliance.refused('STANDBY_BUSY', 'standby', 'remove', MACHINE);

  await spareShell.expect('dd if=/dev/urandom of=/dev/vdb bs=1M seek=20 count=16 2>/dev/null; sync');
  // What is folded has left the log's index, and returns all the same.
  await appliance.ask<BackupReport>('backup', SPARE, '--connect', rig.two.libvirt.uri);
  await spareShell.expect(
    'echo spare > /data/spare; dd if=/dev/urandom of=/dev/vdb bs=1M seek=34 count=1 2>/dev/null; sync',
  );
  const written = await sumOf(spareShell);
  const back = await appliance.ask<FailbackReport>('failback', MACHINE);
  assert.equal(back.method, 'changes', back.reason);
  assert.equal(back.pointBefore, over.point);
  assert.ok(back.changedBytes >= 16 * MIB, `changed ${back.changedBytes}`);
  assert.ok(back.copiedBytes <= 1.2 * back.changedBytes, `copied ${back.copiedBytes} for ${back.changedBytes}`);
  assert.ok(back.verifiedBytes >= back.changedBytes);
  assert.equal(await rig.state(rig.original()), 'running');
  assert.equal(await (await rig.original()).autostart(), true);
  const again = await rig.originalShell();
  assert.equal(await again.expect('cat /data/last /data/spare'), 'last\nspare');
  assert.equal(await sumOf(again), written);
  assert.equal(await rig.state(rig.spare()), 'shut-off');
  assert.equal((await rig.standby()).phase, 'ready');
  assert.deepEqual(await appliance.ask('booted'), []);
});

// The last: the rig's connection to the first hypervisor does not survive this.
test('without its hypervisor a machine under continuous protection is failed over by force, with every write that its guest was told is on disk; the failback compares everything', async (t) => {
  const rig = await shared();
  const { appliance, one } = rig;
  await rig.protect();
  const shell = await rig.originalShell();
  await shell.expect('echo latest > /data/last; dd if=/dev/urandom of=/dev/vdb bs=1M seek=9 count=3 2>/dev/null; sync');
  const last = await sumOf(shell);
  const pid = await one.libvirt.qemuPid(MACHINE);
  assert.ok(pid);
  await one.libvirt.killDaemon();
  const running = await appliance.refused('NOT_FENCED', 'failover', MACHINE, '--force');
  assert.match(running.message, /still runs on this host/);
  process.kill(pid, 'SIGKILL');
  while (isAlive(pid)) await delay(10);
  await rig.forgetShell();
  const refused = await appliance.refused('NOT_FENCED', 'failover', MACHINE);
  assert.match(refused.hint, /--force/);
  assert.equal((await rig.standby()).phase, 'ready');
  const over = await appliance.ask<FailoverReport>('failover', MACHINE, '--force');
  assert.equal(over.planned, false);
  assert.notEqual(over.moment, null);
  const spareShell = await rig.spareShell();
  assert.equal(await spareShell.expect('cat /data/last'), 'latest');
  assert.equal(await sumOf(spareShell), last);
  await spareShell.expect(
    'echo spare > /data/spare; dd if=/dev/urandom of=/dev/vdb bs=1M seek=8 count=2 2>/dev/null; sync',
  );
  const written = await sumOf(spareShell);

  await one.libvirt.startDaemon();
  const connection = t.use(await LibvirtConnection.open(one.libvirt.uri));
  const original = await connection.domainByName(MACHINE);
  // libvirt starts what is to be started with its host.
  if ((await original.state()).state === 'running') await appliance.refused('DOMAIN_WRONG_STATE', 'failback', MACHINE);
  const back = await appliance.ask<FailbackReport>('failback', MACHINE, '--force');
  assert.equal(back.method, 'everything');
  assert.match(back.reason, /could not be reached/);
  assert.equal((await original.state()).state, 'running');
  assert.equal(await original.autostart(), true);
  assert.equal((await appliance.points()).filter(({ id }) => id === back.pointBefore).length, 1);
  const again = await consoleOf(t, one.libvirt, original);
  assert.equal(await again.expect('cat /data/last /data/spare'), 'latest\nspare');
  assert.equal(await sumOf(again), written);
  const removed = await appliance.ask<StandbySummary>('standby', 'remove', MACHINE);
  assert.equal(removed.name, SPARE);
  await assert.rejects(rig.spare(), { code: 'DOMAIN_NOT_FOUND' });
});
