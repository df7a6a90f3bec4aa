// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';

const test = suite('nbd server, peers', { timeoutMs: 60_000 });
const run = promisify(execFile);
const MIB = 1024 * 1024;
const SIZE = 64 * MIB;
/** nbdsh needs the distribution's Python. */
const SYSTEM_PATH = { env: { ...process.env, PATH: '/usr/bin:/bin' } };

interface Running {
  readonly server: NbdServer;
  readonly device: ServerMemoryDevice;
  readonly folder: string;
  /** Of the export "exp". */
  readonly uri: string;
}

async function start(
  t: TestContext,
  options: Partial<ConstructorParameters<typeof ServerMemoryDevice>[0]> = {},
): Promise<Running> {
  const folder = await t.tempDir();
  const path = `${folder}/s`;
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const device = new ServerMemoryDevice({ sizeBytes: SIZE, ...options });
  const extraContexts = new Map([
    [
      'qemu:dirty-bitmap:b0',
      async () => [
        { length: MIB, status: 1 },
        { length: SIZE, status: 0 },
      ],
    ],
  ]);
  server.addExport({ name: 'exp', description: 'the disk', device, extraContexts });
  return { server, device, folder, uri: `nbd+unix:///exp?socket=${path}` };
}

/** Random data, then zeroes, then random data. */
function content(sizeBytes: number): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  randomFillSync(bytes, 0, Math.floor(sizeBytes / 3));
  randomFillSync(bytes, sizeBytes - Math.floor(sizeBytes / 4));
  return bytes;
}

async function nbdsh(uri: string, script: string): Promise<string> {
  const commands = ['h.set_strict_mode(0)', 'h.add_meta_context("base:allocation")', `h.connect_uri("${uri}")`, script];
  const { stdout } = await run(
    '/usr/bin/nbdsh',
    commands.flatMap((each) => ['-c', each]),
    SYSTEM_PATH,
  );
  return stdout.trim();
}

test(
  'nbdinfo lists the export and shows what it can',
  async (t) => {
    const { uri, device } = await start(t);
    await device.write(MIB, Buffer.alloc(MIB, 1));
    const { stdout: list } = await run('nbdinfo', ['--list', '--json', uri.replace('/exp', '/')]);
    assert.equal(JSON.parse(list).exports[0]['export-name'], 'exp');
    const { stdout: json } = await run('nbdinfo', ['--json', uri]);
    const info = JSON.parse(json).exports[0];
    assert.equal(info['export-size'], SIZE);
    assert.deepEqual(info.contexts, ['base:allocation', 'qemu:dirty-bitmap:b0']);
    for (const can of ['cache', 'df', 'fast_zero', 'flush', 'fua', 'multi_conn', 'trim', 'zero']) {
      assert.equal(info[`can_${can}`], true, can);
    }
    await run('nbdinfo', ['--can', 'multi-conn', uri]);
    const { stdout: map } = await run('nbdinfo', ['--map', '--json', uri]);
    assert.deepEqual(
      JSON.parse(map).map((each: { offset: number; length: number; type: number }) => [
        each.offset,
        each.length,
        each.type,
      ]),
      [
        [0, MIB, 3],
        [MIB, MIB, 0],
        [2 * MIB, SIZE - 2 * MIB, 3],
      ],
    );
    const { stdout: totals } = await run('nbdinfo', ['--map', '--totals', uri]);
    assert.match(totals, /1048576 .*data/);
    const { stdout: dirty } = await run('nbdinfo', ['--map=qemu:dirty-bitmap:b0', uri]);
    assert.match(dirty, /^\s*0\s+1048576\s+1/);
  },
  { requires: ['nbdinfo'] },
);

test(
  'nbdcopy writes and reads back, synchronously and with many connections',
  async (t) => {
    const { uri, folder, device } = await start(t);
    const bytes = content(SIZE);
    await writeFile(`${folder}/in`, bytes);
    await run('nbdcopy', ['--destination-is-zero', '--flush', `${folder}/in`, uri]);
    assert.ok(device.content.equals(bytes));
    await run('nbdcopy', [uri, `${folder}/out`]);
    assert.ok((await readFile(`${folder}/out`)).equals(bytes));
    await run('nbdcopy', ['--synchronous', uri, 'null:']);
    await run('nbdcopy', ['--connections=8', '--requests=64', uri, `${folder}/out2`]);
    assert.ok((await readFile(`${folder}/out2`)).equals(bytes));
  },
  { requires: ['nbdcopy'] },
);

test(
  'qemu-img converts, compares, maps and benchmarks',
  async (t) => {
    const { uri, folder, device } = await start(t);
    const bytes = content(SIZE);
    await writeFile(`${folder}/in`, bytes);
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', '-n', `${folder}/in`, uri]);
    assert.ok(device.content.equals(bytes));
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', `${folder}/in`, uri]);
    const { stdout } = await run('qemu-img', ['map', '--output=json', '-f', 'raw', uri]);
    const map = JSON.parse(stdout) as { start: number; length: number; data: boolean }[];
    assert.equal(
      map.reduce((sum, each) => sum + each.length, 0),
      SIZE,
    );
    assert.ok(map.some((each) => !each.data));
    await run('qemu-img', ['bench', '-f', 'raw', '-c', '1000', '-d', '16', '-s', '4096', uri]);
    const writes = ['-w', '-c', '300', '-d', '16', '-s', '65536', '--flush-interval=50'];
    await run('qemu-img', ['bench', '-f', 'raw', ...writes, uri]);
  },
  { requires: ['qemu-img'] },
);

test(
  'qemu-io writes, zeroes, discards and verifies patterns, aligned or not',
  async (t) => {
    const { uri, device } = await start(t);
    const steps = [
      'write -P 0xab 4k 64k',
      'read -P 0xab 4k 64k',
      'write -z 8k 8k',
      'read -P 0 8k 8k',
      'write -z -u 16k 8k',
      'read -P 0 16k 8k',
      'write -f -P 1 1000 3',
      'read -P 1 1000 3',
      'discard 4k 64k',
      'flush',
    ];
    const { stdout } = await run('qemu-io', ['-f', 'raw', '-d', 'unmap', ...steps.flatMap((s) => ['-c', s]), uri]);
    assert.doesNotMatch(stdout, /fail|mismatch|error/i);
    assert.ok(device.calls.includes('write fua 1000+3'));
    assert.ok(device.calls.includes('zero fua keep 8192+8192'), device.calls.join());
  },
  { requires: ['qemu-io'] },
);

test(
  'qemu-io and nbdcopy obey a block size of 4096',
  async (t) => {
    const limits = { minimumBytes: 4096, preferredBytes: 65_536, maximumBytes: MIB };
    const { uri, folder, device } = await start(t, { limits });
    const bytes = content(SIZE);
    await writeFile(`${folder}/in`, bytes);
    await run('nbdcopy', [`${folder}/in`, uri]);
    const steps = ['write -P 7 1000 3000', 'read -P 7 1000 3000'];
    const { stdout } = await run('qemu-io', ['-f', 'raw', ...steps.flatMap((s) => ['-c', s]), uri]);
    assert.doesNotMatch(stdout, /fail|mismatch|error/i);
    bytes.fill(7, 1000, 4000);
    assert.ok(device.content.equals(bytes));
  },
  { requires: ['qemu-io', 'nbdcopy'] },
);

test(
  'fio verifies what it wrote at random',
  async (t) => {
    const { uri } = await start(t);
    const job = ['--name=v', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bs=4k-64k', '--size=8M'];
    const checks = [
      '--iodepth=8',
      '--verify=crc32c',
      '--do_verify=1',
      '--verify_state_save=0',
      '--verify_fatal=1',
      '--output-format=json',
    ];
    const { stdout } = await run('fio', [...job, ...checks]);
    const [result] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs;
    assert.equal(result.error, 0);
    assert.ok(result.read.total_ios > 0);
  },
  { requires: ['fio'] },
);

test(
  'libnbd out of its strict mode gets the error values of the specification',
  async (t) => {
    const { uri, server } = await start(t);
    server.addExport({ name: 'ro', device: new ServerMemoryDevice({ sizeBytes: MIB }), isReadOnly: true });
    const tell = (call: string): string => `
try:
  ${call}
  print("ok")
except nbd.Error as e:
  print(e.errno)`;
    const expected: [string, string][] = [
      ['h.pread(512, h.get_size())', 'EINVAL'],
      ['h.pwrite(b"x" * 512, h.get_size() - 1)', 'ENOSPC'],
      ['h.zero(512, h.get_size())', 'ENOSPC'],
      ['h.trim(512, h.get_size())', 'EINVAL'],
      ['h.pread(512, 0, 0x10)', 'EINVAL'],
      ['h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO)', 'ok'],
      ['h.pread(512, 0, nbd.CMD_FLAG_FUA)', 'ok'],
      ['h.pwrite(b"", 0)', 'ok'],
      ['h.trim(0, 0)', 'ok'],
      ['h.block_status(512, h.get_size(), lambda *a: 0)', 'EINVAL'],
      ['h.pread_structured(65536, 1, lambda *a: 0, nbd.CMD_FLAG_DF)', 'ok'],
      ['h.flush()', 'ok'],
      ['h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_FUA); h.flush(); assert h.pread(512, 0) == b"x" * 512', 'ok'],
    ];
    const lines = (await nbdsh(uri, expected.map(([call]) => tell(call)).join('\n'))).split('\n');
    assert.deepEqual(
      expected.map(([call], index) => [call, lines[index]]),
      expected,
    );
    const readOnly = ['h.pwrite(b"x" * 512, 0)', 'h.trim(512, 0)', 'h.zero(512, 0)'];
    const refused = await nbdsh(uri.replace('/exp', '/ro'), readOnly.map(tell).join('\n'));
    assert.equal(refused, 'EPERM\nEPERM\nEPERM');
  },
  { requires: ['/usr/bin/nbdsh'] },
);

/** Waits for a file that another process makes. */
async function appears(path: string, process: ChildProcess): Promise<void> {
  while (process.exitCode === null) {
    const isThere = await stat(path).then(
      () => true,
      () => false,
    );
    if (isThere) return;
  }
  throw new Error(`the process ended with ${process.exitCode}`);
}

test(
  'nbdkit as client passes everything on, block status included',
  async (t) => {
    const { uri, folder, device } = await start(t);
    const bytes = content(SIZE);
    bytes.copy(device.content);
    await device.write(0, bytes.subarray(0, MIB));
    const front = `${folder}/f`;
    const nbdkit = spawn('nbdkit', ['-f', '-U', front, 'nbd', `uri=${uri}`], { stdio: 'ignore' });
    t.use({
      close: async () => {
        nbdkit.kill();
        if (nbdkit.exitCode === null) await once(nbdkit, 'exit');
      },
    });
    await appears(front, nbdkit);
    const frontUri = `nbd+unix:///?socket=${front}`;
    const steps = [
      'write -P 9 1M 1M',
      'write -z 3M 1M',
      'discard 5M 1M',
      'flush',
      'read -P 9 1M 1M',
      'read -P 0 3M 1M',
    ];
    const { stdout } = await run('qemu-io', ['-f', 'raw', '-d', 'unmap', ...steps.flatMap((s) => ['-c', s]), frontUri]);
    assert.doesNotMatch(stdout, /fail|mismatch|error/i);
    assert.equal(device.content[MIB], 9);
    const { stdout: map } = await run('nbdinfo', ['--map', '--json', frontUri]);
    assert.ok(JSON.parse(map).some((each: { type: number }) => each.type === 3));
  },
  { requires: ['nbdkit', 'qemu-io', 'nbdinfo'] },
);

test(
  'a size that is no multiple of anything is served to its last byte',
  async (t) => {
    const { uri, folder, device } = await start(t, { sizeBytes: 1_000_001 });
    const bytes = content(1_000_001);
    await writeFile(`${folder}/in`, bytes);
    await run('nbdcopy', [`${folder}/in`, uri]);
    assert.ok(device.content.equals(bytes));
    await run('nbdcopy', [uri, `${folder}/out`]);
    assert.ok((await readFile(`${folder}/out`)).equals(bytes));
  },
  { requires: ['nbdcopy'] },
);

test(
  'a killed qemu-io in the middle of its writes leaves a server that serves',
  async (t) => {
    const { uri, server } = await start(t);
    const arguments_ = ['bench', '-f', 'raw', '-w', '-c', '10000000', '-d', '64', '-s', '65536', uri];
    const bench = spawn('qemu-img', arguments_, { stdio: 'ignore' });
    while ((server.exports()[0]?.statistics.bytesWritten ?? 0) < 16 * MIB) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    bench.kill('SIGKILL');
    await once(bench, 'exit');
    while (server.connectionCount > 0) await new Promise((resolve) => setImmediate(resolve));
    assert.equal(server.bytesInFlight, 0);
    await run('nbdinfo', ['--size', uri]);
  },
  { requires: ['qemu-img', 'nbdinfo'] },
);
