// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { MachineWatch } from '../../appliance/cbt/machine-watch.ts';
import type { DiskMirror } from '../../appliance/cbt/mirror.ts';
import { type MirrorLine, MirrorLines } from '../../appliance/cbt/mirror-lines.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { backupXml } from '../../appliance/hypervisor/libvirt/backup-xml.ts';
import { ConnectionCache } from '../../appliance/hypervisor/libvirt/connection-cache.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { mirrorDestinationXml } from '../../appliance/hypervisor/libvirt/mirror-xml.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { systemLibvirtObstacle } from '../../lab/libvirtd.ts';
import {
  definePlainMachine,
  GUEST_REQUIREMENTS,
  type LibvirtRig,
  startGuest,
  startLibvirt,
  startSystemLibvirt,
} from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('disk mirror', { requires: GUEST_REQUIREMENTS, timeoutMs: 90_000 });
const libvirt = test.share((t) => startLibvirt(t));
const guest = test.share(async (t) => startGuest(t, await libvirt()));

const PLAIN_BYTES = 16 * 1024 * 1024;
const GUEST_BYTES = 64 * 1024 * 1024;
const WRITE = 'dd if=/dev/urandom of=/data/w bs=4k count=1 oflag=direct conv=notrunc 2>/dev/null';

/** A target in memory whose writes can be made to fail or to wait. */
class Target {
  readonly memory: BlockDevice;
  readonly device: BlockDevice;
  beforeWrite: () => Promise<void> = () => Promise.resolve();

  constructor(sizeBytes: number) {
    this.memory = memoryDevice({ sizeBytes });
    this.device = new Proxy(this.memory, {
      get: (memory, key) => {
        if (key === 'write') {
          return async (...request: Parameters<BlockDevice['write']>): Promise<void> => {
            await this.beforeWrite();
            await memory.write(...request);
          };
        }
        const value: unknown = Reflect.get(memory, key);
        return typeof value === 'function' ? (value.bind(memory) as unknown) : value;
      },
    });
  }

  async md5(sizeBytes: number): Promise<string> {
    const hash = createHash('md5');
    const piece = Buffer.alloc(1024 * 1024);
    for (let offset = 0; offset < sizeBytes; offset += piece.length) {
      await this.memory.read(offset, piece);
      hash.update(piece);
    }
    return hash.digest('hex');
  }
}

interface Scene {
  readonly watch: MachineWatch;
  readonly lines: MirrorLines;
  readonly target: Target;
  readonly line: MirrorLine;
  readonly lost: string[];
}

async function prepare(t: TestContext, rig: LibvirtRig, uuid: string, sizeBytes: number): Promise<Scene> {
  const cache = t.use(new ConnectionCache());
  const watch = t.use(await MachineWatch.open({ connect: () => cache.get(rig.libvirt.uri), uuid, pollMs: 200 }));
  const directory = rig.libvirt.directory;
  const lines = new MirrorLines({ watch, socketPath: join(directory, 'm.sock'), ownDirectories: [directory] });
  const target = new Target(sizeBytes);
  const lost: string[] = [];
  const line = t.use(await lines.open([{ name: 'vda', device: target.device }], (disk) => lost.push(disk)));
  return { watch, lines, target, line, lost };
}

let machines = 0;

async function plainScene(t: TestContext): Promise<Scene & { readonly rig: LibvirtRig; readonly domain: Domain }> {
  const rig = await libvirt();
  const domain = await definePlainMachine(rig, `machine-${++machines}`);
  await domain.start();
  return { rig, domain, ...(await prepare(t, rig, domain.uuid, PLAIN_BYTES)) };
}

async function startMirror(line: MirrorLine, sizeBytes: number = PLAIN_BYTES): Promise<DiskMirror> {
  return await line.start({ name: 'vda', sizeBytes });
}

async function whenReady(mirror: DiskMirror): Promise<DiskMirror> {
  const settled = Promise.withResolvers<void>();
  using _ = mirror.onState(() => {
    settled.resolve();
  });
  if (mirror.state === 'copying') await settled.promise;
  assert.equal(mirror.state, 'ready', mirror.reason);
  return mirror;
}

for (const [name, failure] of [
  ['an error', (): Promise<void> => Promise.reject(new ApplianceError('IO_FAILED', 'the device is broken'))],
  ['no space', (): Promise<void> => Promise.reject(new ApplianceError('NO_SPACE', 'the device is full'))],
] as const) {
  test(`a target that answers ${name} ends the mirror, and the guest writes on`, async (t) => {
    const { domain, console } = await guest();
    const { line, target } = await prepare(t, await libvirt(), domain.uuid, GUEST_BYTES);
    await console.expect(`${WRITE}; sync`);
    const mirror = await whenReady(await startMirror(line, GUEST_BYTES));
    target.beforeWrite = failure;
    await console.expect(WRITE);
    assert.equal((await mirror.ended).kind, 'failed');
    assert.equal(mirror.state, 'ended');
    await console.expect(WRITE);
    assert.equal(await domain.blockJobInfo('vda'), null);
  });
}

test('a target that hangs is cut when the mirror is ended, and the guest goes on', async (t) => {
  const { domain, console } = await guest();
  const { line, target, lost } = await prepare(t, await libvirt(), domain.uuid, GUEST_BYTES);
  await console.expect(`${WRITE}; sync`);
  const mirror = await whenReady(await startMirror(line, GUEST_BYTES));
  const release = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  target.beforeWrite = async () => {
    reached.resolve();
    await release.promise;
  };
  const writing = console.expect(WRITE);
  await reached.promise;
  await mirror.end();
  await writing;
  release.resolve();
  assert.deepEqual(lost, ['vda']);
  assert.equal(await domain.blockJobInfo('vda'), null);
  await console.expect(WRITE);
});

// The last with the guest: its file system does not survive this.
test('a ready mirror has the whole disk, and each write before the guest sees it complete', async (t) => {
  const { domain, console } = await guest();
  await console.expect('umount /data');
  const { line, target } = await prepare(t, await libvirt(), domain.uuid, GUEST_BYTES);
  const mirror = await whenReady(await startMirror(line, GUEST_BYTES));
  const compare = async (sizeMiB: number): Promise<void> => {
    const read = `dd if=/dev/vda bs=1M count=${sizeMiB} iflag=direct 2>/dev/null | md5sum`;
    const inGuest = (await console.expect(read, { timeoutMs: 60_000 })).split(' ')[0];
    assert.equal(await target.md5(sizeMiB * 1024 * 1024), inGuest);
  };
  for (const place of ['seek=100 bs=512 count=1', 'seek=1 bs=1M count=3', 'seek=7 bs=4k count=33']) {
    await console.expect(`dd if=/dev/urandom of=/dev/vda ${place} oflag=direct 2>/dev/null`);
    await compare(4);
  }
  await compare(GUEST_BYTES / 1024 / 1024);
  assert.equal(mirror.state, 'ready');
  assert.equal(mirror.progress.currentBytes, mirror.progress.endBytes);
});

test('ending a mirror takes the job and the connection, and nothing else', async (t) => {
  const { domain, line, lost } = await plainScene(t);
  const mirror = await whenReady(await startMirror(line));
  await Promise.all([mirror.end(), mirror.end()]);
  assert.deepEqual(await mirror.ended, { kind: 'asked', reason: 'the mirror was ended' });
  assert.deepEqual(lost, ['vda']);
  assert.equal(await domain.blockJobInfo('vda'), null);
  assert.equal((await domain.state()).state, 'running');
  await mirror.end();
});

test('a mirror that an earlier run left is ended before the next begins', async (t) => {
  const { watch, lines, domain, line, rig } = await plainScene(t);
  const left = await whenReady(await startMirror(line));
  assert.deepEqual(await lines.endLeftovers(), ['vda']);
  await left.ended;
  assert.deepEqual(await lines.endLeftovers(), []);
  // One whose target is gone, as after the appliance was killed.
  const other = new MirrorLines({ watch, socketPath: join(rig.libvirt.directory, 'n.sock'), ownDirectories: [] });
  const dead = await other.open([{ name: 'vda', device: new Target(PLAIN_BYTES).device }], () => undefined);
  await whenReady(await startMirror(dead));
  dead.cut();
  assert.equal((await domain.blockJobInfo('vda'))?.kind, 'copy');
  const again = t.use(await other.open([{ name: 'vda', device: new Target(PLAIN_BYTES).device }], () => undefined));
  await whenReady(await startMirror(again));
});

test('jobs of somebody else are DOMAIN_BUSY and go on', async (t) => {
  const { rig, domain, line } = await plainScene(t);
  const socketPath = join(rig.libvirt.directory, 'theirs.sock');
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: socketPath } }));
  server.addExport({ name: 'vda', device: memoryDevice({ sizeBytes: PLAIN_BYTES }) });
  const destinationXml = mirrorDestinationXml({ place: { kind: 'unix', socketPath }, exportName: 'vda' });
  await domain.blockCopy({ disk: 'vda', destinationXml, reusesDestination: true, isTransient: true });
  await rejectsWith(startMirror(line), 'DOMAIN_BUSY');
  assert.equal((await domain.blockJobInfo('vda'))?.kind, 'copy');
  await domain.abortBlockJob('vda');
  const backup = { socketPath: join(rig.libvirt.directory, 'b.sock'), scratchPath: join(rig.libvirt.directory, 'sc') };
  await domain.backupBegin({
    backup: backupXml({
      server: { kind: 'unix', socketPath: backup.socketPath },
      disks: [{ target: 'vda', exportName: 'vda', mode: { kind: 'full' }, scratchPath: backup.scratchPath }],
      excludedTargets: [],
    }),
  });
  await rejectsWith(startMirror(line), 'DOMAIN_BUSY');
  assert.equal(await domain.endBackup(backup.socketPath), true);
  await whenReady(await startMirror(line));
});

test('a disk of another size is SOURCE_CHANGED, and a machine that is off DOMAIN_WRONG_STATE', async (t) => {
  const { domain, line } = await plainScene(t);
  await rejectsWith(startMirror(line, PLAIN_BYTES * 2), 'SOURCE_CHANGED');
  await domain.destroy();
  await rejectsWith(startMirror(line), 'DOMAIN_WRONG_STATE');
});

test('a mirror that somebody else ends says so, and one that somebody pivots to says that', async (t) => {
  const { domain, line } = await plainScene(t);
  const aborted = await whenReady(await startMirror(line));
  await domain.abortBlockJob('vda');
  assert.equal((await aborted.ended).kind, 'cancelled');
  const pivoted = await whenReady(await startMirror(line));
  await domain.abortBlockJob('vda', { isPivot: true });
  assert.equal((await pivoted.ended).kind, 'pivoted');
});

test('a mirror ends with its machine', async (t) => {
  const { domain, line, lost } = await plainScene(t);
  const mirror = await whenReady(await startMirror(line));
  await domain.destroy();
  assert.deepEqual(await mirror.ended, { kind: 'stopped', reason: 'the machine was shut off' });
  assert.deepEqual(lost, ['vda']);
  await mirror.end();
});

test('a mirror outlives libvirtd; one that ended meanwhile is told when libvirtd is back', async (t) => {
  const { rig, line, watch, lost } = await plainScene(t);
  const mirror = await whenReady(await startMirror(line));
  const isBack = async (): Promise<void> => {
    const back = Promise.withResolvers<void>();
    using _ = watch.onFact(({ kind }) => {
      if (kind === 'connection-back') back.resolve();
    });
    await rig.libvirt.killDaemon();
    await rig.libvirt.startDaemon();
    await back.promise;
  };
  await isBack();
  assert.equal(mirror.state, 'ready');
  assert.deepEqual(lost, []);
  await rig.libvirt.killDaemon();
  for (const pid of await rig.libvirt.qemuPids()) process.kill(pid, 'SIGKILL');
  await rig.libvirt.startDaemon();
  assert.equal((await mirror.ended).kind, 'stopped');
});

if (systemLibvirtObstacle() === undefined) {
  test('QEMU of another user is let in', async (t) => {
    const rig = await startSystemLibvirt(t);
    const domain = await definePlainMachine(rig, 'machine');
    await domain.start();
    const { line } = await prepare(t, rig, domain.uuid, PLAIN_BYTES);
    await whenReady(await startMirror(line));
  });
}
