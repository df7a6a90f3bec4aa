// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmod, chown, mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type {
  BackupReport,
  BootReport,
  MigrateReport,
  PointDetails,
  RestoreReport,
  StopReport,
} from '../../appliance/api/operations.ts';
import type { StatusReport } from '../../appliance/api/schemas/repository.ts';
import { systemErrorCode } from '../../appliance/core/errors.ts';
import { qemuOwner } from '../../appliance/hypervisor/libvirt/qemu-owner.ts';
import { parseNbdUri } from '../../appliance/nbd/uri.ts';
import type { GuestConsole } from '../../lab/guest-console.ts';
import { systemLibvirtObstacle } from '../../lab/libvirtd.ts';
import { LiveProcess } from '../support/live-process.ts';
import { consoleOf, GUEST_REQUIREMENTS, type LibvirtRig, startGuest, startSystemLibvirt } from '../support/machines.ts';
import { canConnect, type OtherUser, STRANGER } from '../support/other-user.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

/*
 * A hypervisor whose QEMU is another user, as qemu:///system is on Debian: sockets, scratch files, images and firmware
 * variables have to be reached by a user who may nothing else.
 */

const obstacle = systemLibvirtObstacle();
const requires = [...GUEST_REQUIREMENTS, 'setpriv', 'unshare', 'mount', 'python3'];
const test = suite('a hypervisor of the system', { requires, timeoutMs: 240_000 });
const ROOT = join(import.meta.dirname, '..', '..');
const AS_USER = 'cd / && mkdir -p "$1" && mount --bind "$0" "$1" && shift && exec "$@"';

type Ask = <T>(...args: readonly string[]) => Promise<T>;

interface Operator {
  readonly ask: Ask;
  readonly state: string;
  /** Ends the service, if one runs. */
  readonly endService: () => Promise<void>;
}

/** The command line as root, or as a user without any rights, who finds the sources in a mount namespace. */
async function operator(t: TestContext, connect: string, user: OtherUser | undefined): Promise<Operator> {
  const home = await t.tempDir();
  await chmod(home, 0o711);
  const state = join(home, 'state');
  const sources = user === undefined ? ROOT : join(home, 'src');
  const cli = [join(sources, 'node_modules/.bin/node'), join(sources, 'appliance/cli.ts')];
  if (user !== undefined) await chown(home, user.uid, user.gid);
  const command = user === undefined ? cli : [...asUser(user, sources), ...cli];
  const env = { PATH: process.env['PATH'], HOME: home, LIBVIRT_DEFAULT_URI: connect, UNDERSTUDY_STATE: state };
  const ask = async <T>(...args: readonly string[]): Promise<T> => {
    const [program, ...words] = [...command, ...args, '--json'];
    const end = new LiveProcess([program, ...words], env);
    const { stdout, stderr, exitCode } = await end.result;
    assert.equal(exitCode, 0, `${args.join(' ')}: ${stdout}${stderr}`);
    return JSON.parse(stdout) as T;
  };
  const endService = async (): Promise<void> => {
    const { servicePid } = await ask<StatusReport>('status');
    if (servicePid === null) return;
    process.kill(servicePid, 'SIGTERM');
    while (isAlive(servicePid)) await delay(20);
  };
  await ask('init');
  t.use({ close: endService });
  return { ask, state, endService };
}

function asUser({ uid, gid }: OtherUser, sources: string): string[] {
  const who = ['setpriv', '--reuid', String(uid), '--regid', String(gid), '--clear-groups', '--'];
  return ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', AS_USER, ROOT, sources, ...who];
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    if (systemErrorCode(error) === 'ESRCH') return false;
    throw error;
  }
}

function socketOf({ exports }: BootReport): string {
  const target = parseNbdUri(exports[0]?.uri ?? '');
  assert.ok(target.kind === 'unix');
  return target.path;
}

/** libvirt's library wants its user to have an entry in /etc/passwd: this one owns nothing. */
const SERVICE_USER: OtherUser = { uid: 1, gid: 1 };

async function perform(t: TestContext, rig: LibvirtRig, user: OtherUser | undefined): Promise<void> {
  const { ask, endService } = await operator(t, rig.libvirt.uri, user);
  const owner = await qemuOwner(rig.connection);
  assert.ok(owner !== undefined && owner.uid !== 0);
  const guest = await startGuest(t, rig, 'web');
  assert.equal((await stat(guest.diskPath)).uid, owner.uid, 'QEMU really is another user');

  const first = await ask<BackupReport>('backup', 'web');
  assert.equal(first.kind, 'full');
  await guest.console.expect('head -c 3000000 /dev/urandom > /data/work; sync');
  const work = await guest.console.expect('sha256sum < /data/work');
  const second = await ask<BackupReport>('backup', 'web');
  assert.deepEqual([second.kind, second.disks[0]?.readBytes !== first.disks[0]?.readBytes], ['incremental', true]);
  if (user !== undefined) {
    // libvirt gives the console's file to QEMU's user.
    await ask('standby', 'create', 'web', '--on', rig.libvirt.uri);
    await ask('standby', 'test', 'web', '--expect', '^understudy: guest is up');
    await ask('standby', 'remove', 'web');
  }
  const { point } = await ask<PointDetails>('point', 'show', second.point);
  assert.equal(point.id, second.point);

  const booted = await ask<BootReport>('boot', second.point, '--as', 'spare');
  const socket = socketOf(booted);
  assert.equal(await canConnect(socket, owner), true);
  assert.equal(await canConnect(socket, STRANGER), false);
  const domain = await rig.connection.domainByName('spare');
  const shell = await consoleOf(t, rig.libvirt, domain);
  assert.equal(await shell.expect('sha256sum < /data/work'), work);
  // The rest of a booted machine's life differs for a service without rights only.
  if (user === undefined) await ask<StopReport>('stop', 'spare', '--discard');
  else await resume(t, rig, { ask, endService, shell, socket, point: second.point });

  await migrate(t, rig, { ask, user, point: second.point, work });

  const directory = join(rig.libvirt.directory, 'restored');
  await mkdir(directory, { mode: 0o711 });
  if (user !== undefined) await chown(directory, user.uid, user.gid);
  await ask<RestoreReport>('restore', second.point, '--as', 'copy', '--directory', directory);
  await guest.domain.destroy();
  const copy = await rig.connection.domainByName('copy');
  await copy.start();
  const console = await consoleOf(t, rig.libvirt, copy);
  assert.equal(await console.expect('sha256sum < /data/work'), work);
}

interface Running {
  readonly ask: Ask;
  readonly endService: () => Promise<void>;
  readonly shell: GuestConsole;
  readonly socket: string;
  readonly point: string;
}

/** The service ends, and is back; the machine is stopped, goes on with what it had written, and is thrown away. */
async function resume(t: TestContext, rig: LibvirtRig, running: Running): Promise<void> {
  const { ask, endService, shell, socket, point } = running;
  const owner = (await qemuOwner(rig.connection)) ?? assert.fail('QEMU is another user');
  await shell.expect('echo kept > /data/note; sync');

  await endService();
  assert.equal((await ask<readonly { name: string }[]>('booted'))[0]?.name, 'spare');
  await shell.expect('echo 3 > /proc/sys/vm/drop_caches; echo again >> /data/note; sync');
  assert.equal(await canConnect(socket, owner), true);
  assert.equal(await canConnect(socket, STRANGER), false);

  assert.equal((await ask<StopReport>('stop', 'spare')).discarded, false);
  await ask<BootReport>('boot', point, '--as', 'spare');
  const resumed = await consoleOf(t, rig.libvirt, await rig.connection.domainByName('spare'));
  assert.equal(await resumed.expect('cat /data/note'), 'kept\nagain');
  assert.equal((await ask<StopReport>('stop', 'spare', '--discard')).discarded, true);
}

/** A booted machine leaves for files that QEMU's user, and nobody else, can read. */
async function migrate(
  t: TestContext,
  rig: LibvirtRig,
  by: { readonly ask: Ask; readonly user: OtherUser | undefined; readonly point: string; readonly work: string },
): Promise<void> {
  const directory = join(rig.libvirt.directory, 'moved');
  await mkdir(directory, { mode: 0o711 });
  if (by.user !== undefined) await chown(directory, by.user.uid, by.user.gid);
  await by.ask<BootReport>('boot', by.point, '--as', 'mover');
  const report = await by.ask<MigrateReport>('migrate', 'mover', '--dir', directory);
  assert.equal(report.verifiedBytes === null, by.user !== undefined);
  const { uid, mode } = await stat(report.disks[0]?.path ?? '');
  assert.deepEqual([uid, mode % 0o1000], [(await qemuOwner(rig.connection))?.uid, 0o600]);
  const domain = await rig.connection.domainByName('mover');
  await domain.destroy();
  await domain.start();
  const console = await consoleOf(t, rig.libvirt, domain);
  assert.equal(await console.expect('sha256sum < /data/work'), by.work);
  await domain.destroy();
}

if (obstacle === undefined) {
  test('backup, boot, migration and restore work when QEMU is another user, as root', async (t) => {
    await perform(t, await startSystemLibvirt(t), undefined);
  });

  test('the same, and stopping and resuming, without root: a third user, whom libvirt lets in', async (t) => {
    await perform(t, await startSystemLibvirt(t), SERVICE_USER);
  });
} else {
  test(`cannot be had here (${obstacle})`, () => {
    assert.notEqual(process.getuid?.() === 0 && spawnSync('mount', ['--bind', '/tmp', '/tmp']).status === 0, true);
  });
}
