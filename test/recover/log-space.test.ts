// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { BootedMachines } from '../../appliance/recover/booted-machines.ts';
import { PointUse } from '../../appliance/recover/point-use.ts';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { MOUNT_REQUIREMENTS, SmallFileSystem } from '../support/small-file-system.ts';
import { suite } from '../support/suite.ts';
import { makeBootRig, shellOf } from './boot-rig.ts';
import { partsOf, Watched } from './fixture.ts';

const requires = [...GUEST_REQUIREMENTS, ...MOUNT_REQUIREMENTS];
const test = suite('room for the logs of booted machines', { requires, timeoutMs: 120_000 });
const MIB = 1024 * 1024;
const POLL_MS = 50;

test('a guest without room for its log is paused, said so, and goes on by itself with nothing lost', async (t) => {
  const { connection, libvirt, directory, point, service } = await makeBootRig(t);
  const small = t.use(await SmallFileSystem.mount(join(directory, 'small'), 48 * MIB));
  const nbd = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: join(directory, 'other.sock') } }));
  const notices: string[] = [];
  const parts = {
    ...partsOf(directory, service.fixture, nbd),
    stateDirectory: small.path,
    connectLibvirt: async () => connection,
    onNotice: (sentence: string) => notices.push(sentence),
  };
  const machines = t.use(new BootedMachines(parts, new PointUse(service.fixture.repository)));
  await machines.boot({ point, connect: libvirt.uri, as: 'thirsty' }, new Watched());
  const domain = await connection.domainByName('thirsty');
  const shell = await shellOf(t, domain);
  await shell.expect('head -c 3000000 /dev/urandom > /data/first; sync');
  while (notices.length === 0) await delay(POLL_MS);
  assert.match(notices[0] ?? '', /^Only \d+ MiB are free in .*, where 1 booted machine writes\./);
  await small.fill();
  const writing = shell.expect(
    'head -c 6000000 /dev/urandom > /data/second; sync; sha256sum < /data/second; echo 3 > /proc/sys/vm/drop_caches; sha256sum < /data/second',
    { timeoutMs: 60_000 },
  );
  while (!notices.some((notice) => notice.startsWith('thirsty is paused'))) await delay(POLL_MS);
  assert.equal((await domain.state()).state, 'paused');
  assert.match((await machines.booted())[0]?.problem ?? '', /^paused: no room/);
  await small.release();
  const [written, read] = (await writing).split('\n');
  assert.equal(written, read);
  while (!notices.includes('thirsty goes on: there is room again.')) await delay(POLL_MS);
  assert.match((await machines.booted())[0]?.problem ?? '', /^only \d+ MiB are free/);
  assert.equal(notices.length, 3, notices.join('\n'));
  await machines.stop('thirsty', true);
});
