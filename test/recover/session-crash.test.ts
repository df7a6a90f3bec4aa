// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { RecoverService } from '../../appliance/recover/recover-service.ts';
import type { Session, SessionPhase } from '../../appliance/recover/session-store.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { LIBVIRT_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { noise, partsOf, Watched } from './fixture.ts';

const test = suite('sessions after a crash', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });
const SIZE = 4 * 1024 * 1024;
const DEFINITION =
  '<domain type="qemu"><name>web</name><uuid>5c1e5c1e-0000-4000-8000-00000000abcd</uuid><memory unit="MiB">64</memory>' +
  '<os><type arch="x86_64" machine="pc">hvm</type></os><devices><disk type="file" device="disk">' +
  '<driver name="qemu" type="raw"/><source file="/x"/><target dev="vda" bus="virtio"/></disk>' +
  '<controller type="usb" model="none"/><memballoon model="none"/></devices></domain>';

interface Life extends AsyncDisposable {
  readonly service: RecoverService;
  readonly fixture: FixtureRepository;
  readonly nbd: NbdServer;
}

interface CrashRig {
  readonly directory: string;
  readonly hypervisor: LibvirtRig;
  readonly point: RecoveryPoint;
  readonly first: Life;
  /** Ends the service as it is, and starts another on the same directories. */
  readonly restart: (life: Life) => Promise<Life>;
}

async function crashRig(t: TestContext): Promise<CrashRig> {
  const directory = await t.tempDir();
  const hypervisor = await startLibvirt(t);
  const live = async (fixture: FixtureRepository): Promise<Life> => {
    const nbd = await NbdServer.listen({ listen: { kind: 'unix', path: join(directory, 'nbd.sock') } });
    const service = await RecoverService.open({
      ...partsOf(directory, fixture, nbd),
      connectLibvirt: (uri) => LibvirtConnection.open(uri),
    });
    const end = async (): Promise<void> => {
      await service.close();
      await nbd.close();
      await fixture.close();
    };
    return t.use({ service, fixture, nbd, [Symbol.asyncDispose]: end });
  };
  const fixture = await FixtureRepository.create(directory);
  const disk = memoryDevice({ sizeBytes: SIZE });
  await disk.write(0, noise(100_000, 1));
  const point = await fixture.addPoint({
    machine: { id: '5c1e5c1e-0000-4000-8000-00000000abcd', name: 'web' },
    disks: { vda: disk },
    attachments: { 'domain.xml': Buffer.from(DEFINITION) },
  });
  const restart = async (life: Life): Promise<Life> => {
    await life[Symbol.asyncDispose]();
    return live(await life.fixture.reopen());
  };
  return { directory, hypervisor, point, first: await live(fixture), restart };
}

async function setPhase(directory: string, phase: SessionPhase): Promise<void> {
  const sessions = join(directory, 'sessions');
  for (const id of await readdir(sessions)) {
    const path = join(sessions, id, 'session.json');
    const session = JSON.parse(await readFile(path, 'utf8')) as Session;
    await writeFile(path, JSON.stringify({ ...session, phase }));
  }
}

async function isDefined({ connection }: LibvirtRig, name: string): Promise<boolean> {
  try {
    await connection.domainByName(name);
    return true;
  } catch (error) {
    if (hasCode(error, 'DOMAIN_NOT_FOUND')) return false;
    throw error;
  }
}

for (const phase of ['starting', 'discarding'] as const) {
  test(`a session that a crash left ${phase} is removed with all of it`, async (t) => {
    const { directory, hypervisor, point, first, restart } = await crashRig(t);
    await first.service.boot({ point, as: 'spare', connect: hypervisor.libvirt.uri }, new Watched());
    await setPhase(directory, phase);
    const { service, nbd, fixture } = await restart(first);
    assert.deepEqual(service.usedBy(point.id), ['booted machine spare']);
    const { restored, problems } = await service.restoreSessions();
    assert.deepEqual(problems, []);
    assert.equal(restored.length, 1);
    assert.equal(await isDefined(hypervisor, 'spare'), false);
    assert.deepEqual(await readdir(join(directory, 'sessions')), []);
    assert.deepEqual(
      (await fixture.catalog.points()).map(({ id }) => id),
      [point.id],
    );
    assert.deepEqual(nbd.exports(), []);
    assert.deepEqual(service.usedBy(point.id), []);
  });
}

for (const phase of ['resuming', 'stopping'] as const) {
  test(`a session that a crash left ${phase} is stopped, and what it had written is kept`, async (t) => {
    const { directory, hypervisor, point, first, restart } = await crashRig(t);
    const request = { point, as: 'spare', connect: hypervisor.libvirt.uri };
    const { exports } = await first.service.boot(request, new Watched());
    const data = noise(5000, 3);
    await using writer = await connectNbd(exports[0]?.uri ?? '', { reconnect: false });
    await writer.write(1_000_000, data);
    await writer.close();
    await setPhase(directory, phase);
    const { service } = await restart(first);
    assert.deepEqual((await service.restoreSessions()).problems, []);
    assert.equal(await isDefined(hypervisor, 'spare'), false);
    const [kept] = await service.booted();
    assert.equal(kept?.state, 'kept');
    assert.ok((kept?.writtenBytes ?? 0) >= data.length);
    const again = await service.boot(request, new Watched());
    await using reader = await connectNbd(again.exports[0]?.uri ?? '', { reconnect: false });
    const found = Buffer.alloc(data.length);
    await reader.read(1_000_000, found);
    assert.ok(found.equals(data));
    await reader.close();
    await service.stop('spare', true);
  });
}

test('acknowledged writes of a client are there under the same export name after a restart', async (t) => {
  const { hypervisor, point, first, restart } = await crashRig(t);
  const { exports } = await first.service.boot({ point, as: 'spare', connect: hypervisor.libvirt.uri }, new Watched());
  const uri = exports[0]?.uri ?? '';
  await using client = await connectNbd(uri, { connections: 1 });
  const data = noise(70_000, 4);
  await client.write(2_000_000, data, { fua: true });
  const { service } = await restart(first);
  await service.restoreSessions();
  const found = Buffer.alloc(data.length);
  await client.read(2_000_000, found);
  assert.ok(found.equals(data));
  await client.close();
  await service.stop('spare', true);
});

test('a session whose libvirt is away is served all the same, and can be stopped later', async (t) => {
  const { directory, hypervisor, point, first, restart } = await crashRig(t);
  const { libvirt } = hypervisor;
  await first.service.boot({ point, as: 'spare', connect: libvirt.uri }, new Watched());
  const second = await restart(first);
  await libvirt.killDaemon();
  const { restored, problems } = await second.service.restoreSessions();
  assert.deepEqual(restored, ['spare is served again.']);
  assert.deepEqual(problems, []);
  assert.equal((await second.service.booted())[0]?.state, 'unknown');
  await assert.rejects(second.service.stop('spare', true), { code: 'LIBVIRT_CONNECT_FAILED' });
  assert.equal((await readdir(join(directory, 'sessions'))).length, 1);
  await libvirt.startDaemon();
  await second.service.stop('spare', true);
  assert.deepEqual(await readdir(join(directory, 'sessions')), []);
});

test('a guest that shut down by itself is started again by boot, with what it had written', async (t) => {
  const { hypervisor, point, first } = await crashRig(t);
  const request = { point, as: 'spare', connect: hypervisor.libvirt.uri };
  await first.service.boot(request, new Watched());
  await (await hypervisor.connection.domainByName('spare')).destroy();
  assert.equal((await first.service.booted())[0]?.state, 'shut-off');
  await first.service.boot(request, new Watched());
  assert.equal((await first.service.booted())[0]?.state, 'running');
  const other = await first.fixture.addPoint({
    disks: { vda: memoryDevice({ sizeBytes: SIZE }) },
    attachments: { 'domain.xml': Buffer.from(DEFINITION) },
  });
  await assert.rejects(first.service.boot({ ...request, point: other }, new Watched()), { code: 'DOMAIN_EXISTS' });
  await first.service.stop('spare', true);
});

test('a domain of the same UUID without our mark is never touched', async (t) => {
  const { directory, hypervisor, point, first, restart } = await crashRig(t);
  const { connection, libvirt } = hypervisor;
  await first.service.boot({ point, as: 'spare', keepIdentity: true, connect: libvirt.uri }, new Watched());
  const booted = await connection.domainByName('spare');
  await booted.destroy();
  await booted.undefine();
  await connection.define(DEFINITION);
  await setPhase(directory, 'starting');
  const { service } = await restart(first);
  assert.deepEqual((await service.restoreSessions()).problems, []);
  assert.equal(await isDefined(hypervisor, 'web'), true);
});

test('leftovers of a session that was never stored are removed, and a session file that cannot be read stops the start', async (t) => {
  const { directory, first, restart } = await crashRig(t);
  await mkdir(join(directory, 'sessions', '0123456789abcdef'), { recursive: true });
  await mkdir(join(directory, 'sessions', 'fedcba9876543210.discarded', 'log'), { recursive: true });
  const second = await restart(first);
  assert.deepEqual(await readdir(join(directory, 'sessions')), []);
  await mkdir(join(directory, 'sessions', '0123456789abcdef'));
  await writeFile(join(directory, 'sessions', '0123456789abcdef', 'session.json'), '{"torn');
  await assert.rejects(RecoverService.open(partsOf(directory, second.fixture, second.nbd)), {
    code: 'REPOSITORY_FORMAT',
  });
});
