// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { open, rm, writeFile } from 'node:fs/promises';
import { connect as connectSocket, createServer } from 'node:net';
import { join } from 'node:path';
import { hasCode } from '../../appliance/core/errors.ts';
import { endOf } from '../../appliance/core/extents.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { exportInfo, listExports } from '../../appliance/nbd/client/list.ts';
import type { NbdDevice } from '../../appliance/nbd/client/nbd-device.ts';
import { blockDeviceConformance, patterned } from '../block/conformance.ts';
import { suite } from '../support/suite.ts';
import { eventually, runTool, startNbdkit, startQemuNbd, startStorageDaemon } from './support-client-peers.ts';
import { rejects } from './support-client-rig.ts';

const test = suite('nbd client: peers', { timeoutMs: 30_000 });
const NBDKIT = { requires: ['nbdkit'] };
const MIB = 1024 * 1024;

blockDeviceConformance(
  'NBD over nbdkit',
  async (t, content) => {
    const path = join(await t.tempDir(), 'disk');
    await writeFile(path, content);
    return await connectNbd((await startNbdkit(t, ['file', path])).uri());
  },
  { requires: ['nbdkit'] },
);

blockDeviceConformance(
  'NBD over nbdkit with simple replies',
  async (t, content) => {
    const path = join(await t.tempDir(), 'disk');
    await writeFile(path, content);
    return await connectNbd((await startNbdkit(t, ['--no-sr', 'file', path])).uri());
  },
  { requires: ['nbdkit'], steps: 100 },
);

blockDeviceConformance(
  'NBD over qemu-nbd and qcow2',
  async (t, content) => {
    const directory = await t.tempDir();
    await writeFile(join(directory, 'raw'), content);
    const image = join(directory, 'disk.qcow2');
    await runTool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', join(directory, 'raw'), image);
    return await connectNbd((await startQemuNbd(t, ['-e', '4', '-f', 'qcow2', image])).uri());
  },
  { requires: ['qemu-nbd', 'qemu-img'] },
);

blockDeviceConformance(
  'NBD over qemu-nbd, read-only',
  async (t, content) => {
    const path = join(await t.tempDir(), 'disk');
    await writeFile(path, content);
    return await connectNbd((await startQemuNbd(t, ['-r', '-e', '4', '-f', 'raw', path])).uri());
  },
  { requires: ['qemu-nbd'] },
);

for (const mask of [0, 1, 2, 3]) {
  for (const extra of [[], ['--no-sr']]) {
    test(
      `nbdkit with --mask-handshake=${mask} ${extra.join(' ')} reads and writes`,
      async (t) => {
        const server = await startNbdkit(t, [`--mask-handshake=${mask}`, ...extra, 'memory', '1M']);
        const device = t.use(await connectNbd(server.uri()));
        const data = patterned(70_000);
        await device.write(1000, data);
        const into = Buffer.alloc(data.length);
        await device.read(1000, into);
        assert.ok(into.equals(data));
      },
      NBDKIT,
    );
  }
}

test(
  'an oldstyle server is refused',
  async (t) => {
    const server = await startNbdkit(t, ['-o', 'memory', '1M']);
    await rejects(connectNbd(server.uri()), 'NBD_REFUSED');
  },
  NBDKIT,
);

test(
  'exports are listed, described, and found by name',
  async (t) => {
    const directory = await t.tempDir();
    await writeFile(join(directory, 'one'), patterned(4096));
    await writeFile(join(directory, 'zwei ä'), patterned(8192));
    const server = await startNbdkit(t, ['file', `dir=${directory}`]);
    const listed = (await listExports(server.uri())).map((entry) => entry.name);
    assert.deepEqual(listed.sort(), ['one', 'zwei ä']);
    const info = await exportInfo(server.uri('zwei ä'));
    assert.deepEqual([info.name, info.sizeBytes, info.contexts], ['zwei ä', 8192, ['base:allocation']]);
    const device = t.use(await connectNbd(server.uri('zwei ä')));
    assert.equal(device.sizeBytes, 8192);
    await rejects(connectNbd(server.uri('three')), 'NBD_EXPORT_UNKNOWN');
    await rejects(exportInfo(server.uri('three')), 'NBD_EXPORT_UNKNOWN');
  },
  NBDKIT,
);

test(
  'the dirty bitmap and allocation depth of qemu-storage-daemon, beside base:allocation',
  async (t) => {
    const image = join(await t.tempDir(), 'disk.qcow2');
    await runTool('qemu-img', 'create', '-f', 'qcow2', image, '16M');
    await runTool('qemu-io', '-f', 'qcow2', '-c', 'write -P 0x11 0 4M', image);
    await runTool('qemu-img', 'bitmap', '--add', image, 'b0');
    await runTool('qemu-io', '-f', 'qcow2', '-c', 'write -P 0x22 1M 64k', '-c', 'write -z 2M 128k', image);
    const server = await startStorageDaemon(t, [
      '--blockdev',
      `driver=qcow2,node-name=disk,file.driver=file,file.filename=${image}`,
      '--export',
      'type=nbd,id=e,node-name=disk,name=disk,writable=on,bitmaps.0=b0,allocation-depth=on',
    ]);
    const bitmap = 'qemu:dirty-bitmap:b0';
    const info = await exportInfo(server.uri('disk'));
    assert.deepEqual(info.contexts.toSorted(), ['base:allocation', 'qemu:allocation-depth', bitmap]);
    const contexts = { metaContexts: [bitmap, 'base:allocation', 'qemu:allocation-depth'] };
    const device = t.use(await connectNbd(server.uri('disk'), contexts));
    const dirty = await walk(device, bitmap);
    assert.deepEqual(dirty, [
      { offset: 0, length: MIB, flags: 0 },
      { offset: MIB, length: 65_536, flags: 1 },
      { offset: MIB + 65_536, length: MIB - 65_536, flags: 0 },
      { offset: 2 * MIB, length: 131_072, flags: 1 },
      { offset: 2 * MIB + 131_072, length: 14 * MIB - 131_072, flags: 0 },
    ]);
    const allocation = await walk(device, 'base:allocation');
    assert.deepEqual(
      allocation.map(({ offset, flags }) => [offset, flags]),
      [
        [0, 0],
        [2 * MIB, 3],
        [2 * MIB + 131_072, 0],
        [4 * MIB, 3],
      ],
    );
    const depth = await walk(device, 'qemu:allocation-depth');
    assert.deepEqual(
      depth.map(({ offset, flags }) => [offset, flags]),
      [
        [0, 1],
        [4 * MIB, 0],
      ],
    );
    await rejects(
      connectNbd(server.uri('disk'), { metaContexts: ['qemu:dirty-bitmap:b'] }),
      'NBD_META_CONTEXT_MISSING',
    );
    await rejects(connectNbd(server.uri('disk'), { metaContexts: ['qemu:dirty-bitmap:'] }), 'NBD_META_CONTEXT_MISSING');
  },
  { requires: ['qemu-storage-daemon', 'qemu-img', 'qemu-io'] },
);

test(
  'block sizes are taken over and kept',
  async (t) => {
    const policy = ['blocksize-minimum=4k', 'blocksize-preferred=64k', 'blocksize-maximum=1M'];
    const server = await startNbdkit(t, [
      '--filter=blocksize-policy',
      'memory',
      '8M',
      ...policy,
      'blocksize-error-policy=error',
    ]);
    const device = t.use(await connectNbd(server.uri()));
    assert.deepEqual(device.limits, { minimumBytes: 4096, preferredBytes: 65_536, maximumBytes: MIB });
    await device.write(4096, patterned(MIB));
    await rejects(device.read(1, Buffer.alloc(4096)), 'BAD_ARGUMENT');
    const loose = t.use(await connectNbd(server.uri(), { strict: false }));
    await rejects(loose.read(1, Buffer.alloc(4096)), 'NBD_SERVER_ERROR');
    await rejects(loose.write(0, Buffer.alloc(2 * MIB)), 'NBD_SERVER_ERROR');
    await loose.read(4096, Buffer.alloc(4096));
  },
  NBDKIT,
);

test(
  'errors that a server throws in are errors of single requests, and the rest is right',
  async (t) => {
    const image = join(await t.tempDir(), 'disk');
    const content = patterned(4 * MIB);
    await writeFile(image, content);
    const server = await startNbdkit(t, ['--filter=error', 'file', image, 'error=EIO', 'error-pread-rate=20%']);
    const device = t.use(await connectNbd(server.uri()));
    let failed = 0;
    await Promise.all(
      Array.from({ length: 200 }, async (_, index) => {
        const into = Buffer.alloc(16_384);
        try {
          await device.read(index * 16_384, into);
          assert.ok(into.equals(content.subarray(index * 16_384, (index + 1) * 16_384)));
        } catch (error) {
          assert.ok(hasCode(error, 'NBD_SERVER_ERROR') && error.details['errno'] === 'EIO', String(error));
          failed += 1;
        }
      }),
    );
    assert.ok(failed > 0 && failed < 200, `${failed} of 200 failed`);
  },
  NBDKIT,
);

test(
  'a full disk is NO_SPACE, and extents that fail are errors',
  async (t) => {
    const server = await startNbdkit(t, [
      '--filter=error',
      'memory',
      '1M',
      'error-pwrite=ENOSPC',
      'error-pwrite-rate=1',
    ]);
    await rejects(t.use(await connectNbd(server.uri())).write(0, Buffer.alloc(512)), 'NO_SPACE');
    const second = await startNbdkit(t, [
      '--filter=error',
      'memory',
      '1M',
      'error-extents=EIO',
      'error-extents-rate=1',
    ]);
    const device = t.use(await connectNbd(second.uri()));
    await rejects(device.extents({ offset: 0, length: 4096 }), 'NBD_SERVER_ERROR');
    await device.read(0, Buffer.alloc(512));
  },
  NBDKIT,
);

test(
  'a slow server is waited for until the deadline, not longer',
  async (t) => {
    const server = await startNbdkit(t, ['--filter=delay', 'memory', '1M', 'delay-read=300ms']);
    const patient = t.use(await connectNbd(server.uri(), { requestTimeoutMs: 10_000 }));
    await patient.read(0, Buffer.alloc(512));
    const hasty = t.use(await connectNbd(server.uri(), { requestTimeoutMs: 50, reconnect: false }));
    await rejects(hasty.read(0, Buffer.alloc(512)), 'TIMED_OUT');
    const opening = await startNbdkit(t, ['--filter=delay', 'memory', '1M', 'delay-open=2']);
    await rejects(connectNbd(opening.uri(), { connectTimeoutMs: 100 }), 'TIMED_OUT');
  },
  NBDKIT,
);

test(
  'extents that a script answers: HOLE without ZERO is data',
  async (t) => {
    const script = [
      'get_size=echo 65536',
      'pread=dd if=/dev/zero count=$3 iflag=count_bytes',
      'can_extents=exit 0',
      'extents=echo 0 16384 hole; echo 16384 16384 zero; echo 32768 16384 hole,zero; echo 49152 16384',
    ];
    const server = await startNbdkit(t, ['eval', ...script]);
    const device = t.use(await connectNbd(server.uri()));
    const kinds = [];
    for (let offset = 0; offset < device.sizeBytes; ) {
      const extents = await device.extents({ offset, length: device.sizeBytes - offset });
      kinds.push(...extents.map((extent) => [extent.offset, extent.kind]));
      offset = endOf(extents.at(-1) ?? { offset, length: 1 });
    }
    assert.deepEqual(kinds, [
      [0, 'data'],
      [16_384, 'zero'],
      [32_768, 'hole'],
      [49_152, 'data'],
    ]);
  },
  NBDKIT,
);

test(
  'nbdkit goes with its last client: a close leaves nothing behind',
  async (t) => {
    const path = join(await t.tempDir(), 's');
    const server = await startNbdkit(t, ['--filter=exitlast', 'memory', '1M'], { socket: path, probe: false });
    let device: NbdDevice | undefined;
    await eventually('the server accepts', async () => {
      device = await connectNbd(server.uri()).catch(() => undefined);
      return device !== undefined;
    });
    await device?.read(0, Buffer.alloc(512));
    await device?.close();
    await server.ended;
  },
  NBDKIT,
);

test(
  'requests of 32 MiB, and many in flight over several connections, on shared memory',
  async (t) => {
    const image = join(await t.tempDir(), 'disk');
    await (await open(image, 'w')).close();
    await runTool('truncate', '-s', '64M', image);
    const server = await startQemuNbd(t, ['-e', '8', '-f', 'raw', image]);
    const device = t.use(await connectNbd(server.uri(), { connections: 4 }));
    const data = Buffer.from(new SharedArrayBuffer(32 * MIB));
    patterned(MIB).copy(data, 5 * MIB);
    await device.write(MIB, data);
    const into = Buffer.from(new SharedArrayBuffer(32 * MIB)).fill(1);
    await device.read(MIB, into);
    assert.ok(into.equals(data));
    into.fill(2);
    const reads = [];
    for (let at = 0; at < into.length; at += 131_072)
      reads.push(device.read(MIB + at, into.subarray(at, at + 131_072)));
    await Promise.all(reads);
    assert.ok(into.equals(data));
    assert.ok(device.features.isMultiConnSafe && device.connections >= 1);
    await device.flush();
    await runTool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', image, server.uri());
  },
  { requires: ['qemu-nbd', 'qemu-img', 'truncate'] },
);

test(
  'a stream that arrives byte by byte over TCP is the same stream',
  async (t) => {
    const server = await startNbdkit(t, ['pattern', '1M']);
    const relay = createServer({ noDelay: true }, (client) => {
      const upstream = connectSocket(server.socket);
      client.pipe(upstream);
      upstream.on('data', (chunk: Buffer) => {
        for (const byte of chunk) client.write(Buffer.of(byte));
      });
      upstream.on('close', () => client.destroy());
      for (const socket of [client, upstream]) socket.on('error', () => socket.destroy());
    }).listen(0, '127.0.0.1');
    t.use(relay);
    await new Promise((resolve) => relay.once('listening', resolve));
    const address = relay.address();
    assert.ok(address !== null && typeof address === 'object');
    const direct = t.use(await connectNbd(server.uri()));
    const device = await connectNbd(`nbd://127.0.0.1:${address.port}/`);
    const expected = Buffer.alloc(30_000);
    const into = Buffer.alloc(30_000);
    await direct.read(100, expected);
    await device.read(100, into);
    assert.ok(into.equals(expected));
    assert.deepEqual(await device.extents({ offset: 0, length: MIB }), [{ offset: 0, length: MIB, kind: 'data' }]);
    await device.close();
  },
  NBDKIT,
);

test(
  'an image that shrinks under its server ends in errors, never in wrong bytes',
  async (t) => {
    const image = join(await t.tempDir(), 'disk');
    const content = patterned(MIB);
    await writeFile(image, content);
    const server = await startNbdkit(t, ['file', image]);
    const device = t.use(await connectNbd(server.uri()));
    await runTool('truncate', '-s', '512k', image);
    const into = Buffer.alloc(4096);
    await device.read(0, into);
    assert.ok(into.equals(content.subarray(0, 4096)));
    await rejects(device.read(768 * 1024, into), 'NBD_SERVER_ERROR');
    await rm(image);
  },
  { requires: ['nbdkit', 'truncate'] },
);

async function walk(device: NbdDevice, context: string): Promise<{ offset: number; length: number; flags: number }[]> {
  const found: { offset: number; length: number; flags: number }[] = [];
  for (let offset = 0; offset < device.sizeBytes; ) {
    for (const { length, flags } of await device.blockStatus({ offset, length: device.sizeBytes - offset }, context)) {
      const last = found.at(-1);
      if (last !== undefined && last.flags === flags) last.length += length;
      else found.push({ offset, length, flags });
      offset += length;
    }
  }
  return found;
}
