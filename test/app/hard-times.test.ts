// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { pino } from 'pino';
import { LocalEndpoint } from '../../appliance/api/client/endpoint.ts';
import { openApiDocument } from '../../appliance/api/openapi/document.ts';
import { ApiServer } from '../../appliance/api/server/api-server.ts';
import { initialize, openAppliance } from '../../appliance/main.ts';
import { ask } from '../support/api-service.ts';
import { DiskServer } from '../support/disk-server.ts';
import type { Json } from '../support/fuzz/api-contract.ts';
import { fuzzApi } from '../support/fuzz/api-fuzz.ts';
import { Dice } from '../support/point-model.ts';
import { MOUNT_REQUIREMENTS, SmallFileSystem } from '../support/small-file-system.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('the service in hard times', { timeoutMs: 60_000 });
const MIB = 1024 * 1024;
const READS = [
  '/points',
  '/points/mail@latest',
  '/machines/mail/timeline',
  '/runs',
  '/booted',
  '/repository',
  '/protection',
];

interface Rig {
  readonly endpoint: LocalEndpoint;
  readonly path: string;
  readonly defects: Error[];
  readonly get: (path: string) => Promise<number>;
  readonly backup: () => Promise<Json>;
}

/** A real appliance with one point of a disk, behind its interface. */
async function rig(t: TestContext, directory: string, connect: string): Promise<Rig> {
  const state = join(directory, 'state');
  await mkdir(directory, { recursive: true });
  await initialize({ stateDirectory: state, encryption: true });
  const defects: Error[] = [];
  const host = t.use(
    await openAppliance({ stateDirectory: state, isService: true, connect, onNotice: () => undefined }),
  );
  t.use(
    await ApiServer.listen({
      host,
      stateDirectory: state,
      logger: pino({ level: 'silent' }),
      onDefect: (violation) => defects.push(violation),
      onStop: () => undefined,
    }),
  );
  const disk = t.use(await DiskServer.start(join(await t.tempDir(), 'nbd'), new Dice(3).bytes(2 * MIB)));
  const endpoint = new LocalEndpoint(state);
  let seed = 10;
  const backup = async (): Promise<Json> => {
    seed += 1;
    await disk.write(new Dice(seed).bytes(2 * MIB));
    const body = { target: disk.uri, name: 'mail' };
    const { value } = await ask(endpoint, 'POST', '/api/v1/backups', { body });
    const { id } = value as { readonly id: string };
    await host.runService.find(id)?.ended;
    return (await ask(endpoint, 'GET', `/api/v1/runs/${id}`)).value as Json;
  };
  const first = await backup();
  assert.equal(first['state'], 'succeeded', JSON.stringify(first['error']));
  const get = async (path: string): Promise<number> => (await ask(endpoint, 'GET', `/api/v1${path}`)).status;
  return { endpoint, path: join(state, 'control.sock'), defects, get, backup };
}

test('hostile reads of a real appliance without a hypervisor get answers that are as the document says', async (t) => {
  const { path, defects } = await rig(t, await t.tempDir(), 'qemu+unix:///system?socket=/nowhere');
  const { requests } = await fuzzApi({
    peer: { path },
    document: openApiDocument() as Json,
    seed: 20_261_122,
    runs: 10,
    isChosen: ({ method, id }) => method === 'GET' && id !== 'events',
    // Hypervisors that are not there.
    allowed5xx: [502, 504],
    afterEach: () => defects.map(String).join('; '),
  });
  assert.ok(requests > 100);
});

test(
  'a hypervisor that accepts and says nothing holds up nobody who does not ask for it',
  async (t) => {
    const socket = join(await t.tempDir(), 'libvirt.sock');
    const accepted = Promise.withResolvers<void>();
    const daemon = createServer((connection) => {
      t.use({ close: () => void connection.destroy() });
      accepted.resolve();
    }).listen(socket);
    t.use({ close: () => void daemon.close() });
    const { get } = await rig(t, await t.tempDir(), `qemu+unix:///system?socket=${socket}`);
    const waiting = Promise.allSettled(Array.from({ length: 20 }, () => get('/machines')));
    await accepted.promise;
    for (const path of READS) assert.equal(await get(path), 200, path);
    daemon.close();
    void waiting;
  },
  { requires: ['libvirtd'] },
);

test(
  'on a full disk reads go on, writes say NO_SPACE, and nothing is lost',
  async (t) => {
    const room = t.use(await SmallFileSystem.mount(join(await t.tempDir(), 'small'), 48 * MIB));
    const { get, backup, endpoint, defects } = await rig(t, room.path, 'qemu+unix:///system?socket=/nowhere');
    await room.fill();
    for (const path of READS) assert.equal(await get(path), 200, path);
    const failed = await backup();
    assert.equal((failed['error'] as Json)['code'], 'NO_SPACE');
    const hold = await ask(endpoint, 'PUT', '/api/v1/points/mail@latest/hold', { body: { reason: 'full' } });
    assert.ok(hold.status === 200 || hold.status === 507, String(hold.status));
    for (const path of READS) assert.equal(await get(path), 200, path);
    await room.release();
    assert.equal((await backup())['state'], 'succeeded');
    const { value } = await ask(endpoint, 'GET', '/api/v1/points');
    assert.equal((value as Json)['total'], 2);
    const runs = (await ask(endpoint, 'GET', '/api/v1/runs')).value as { readonly items: readonly Json[] };
    assert.deepEqual(
      runs.items.filter(({ operation }) => operation === 'backup').map(({ state }) => state),
      ['succeeded', 'failed', 'succeeded'],
    );
    assert.deepEqual(defects, []);
  },
  { requires: MOUNT_REQUIREMENTS },
);
