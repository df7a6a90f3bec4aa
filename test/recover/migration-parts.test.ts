// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MARK_BYTES, MarkedDevice, WriteMarks } from '../../appliance/block/marked-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import type { MovingDisk } from '../../appliance/recover/migration-copy.ts';
import { lastingDefinition } from '../../appliance/recover/migration-definition.ts';
import { moveNvram } from '../../appliance/recover/migration-nvram.ts';
import { verifyCopy } from '../../appliance/recover/migration-verify.ts';
import { MOUNT_REQUIREMENTS, SmallFileSystem } from '../support/small-file-system.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { noise, tool } from './fixture.ts';

const test = suite('parts of a migration', {
  requires: ['qemu-img', 'qemu-nbd', 'qemu-io', 'setpriv'],
  timeoutMs: 60_000,
});
const MIB = 1024 * 1024;
const SIZE = 8 * MIB;

/** A disk of noise with a hole, and its copy in an image. */
async function copiedDisk(directory: string, format: 'raw' | 'qcow2'): Promise<MovingDisk> {
  const content = Buffer.concat([noise(3 * MIB, 5), Buffer.alloc(2 * MIB), noise(3 * MIB, 6)]);
  const device = new MarkedDevice(memoryDevice({ sizeBytes: SIZE }));
  await device.write(0, content.subarray(0, 3 * MIB));
  await device.write(5 * MIB, content.subarray(5 * MIB));
  const raw = join(directory, 'content.raw');
  await writeFile(raw, content);
  const path = join(directory, `copy, of it.${format}`);
  await tool('qemu-img', 'convert', '-f', 'raw', '-O', format, raw, path);
  device.marks = new WriteMarks(SIZE);
  return { device, target: { disk: 'vda', format, sizeBytes: SIZE, name: 'copy', path } };
}

const options = (directory: string): Parameters<typeof verifyCopy>[1] => ({
  directory,
  signal: new AbortController().signal,
  onProgress: () => undefined,
});

async function damage({ target }: MovingDisk, offset: number): Promise<void> {
  await tool('qemu-io', '-f', target.format, '-c', `write -P 0x5a ${offset} 512`, target.path);
}

for (const format of ['raw', 'qcow2'] as const) {
  test(`a good copy in a ${format} image is found equal`, async (t) => {
    const directory = await t.tempDir();
    const disk = await copiedDisk(directory, format);
    assert.deepEqual(await verifyCopy(disk, options(directory)), { equalBytes: SIZE, busyBytes: 0 });
  });

  test(`a single different sector in a ${format} image is found, in data and in holes`, async (t: TestContext) => {
    const findsIt = async (offset: number): Promise<void> => {
      const directory = await t.tempDir();
      const disk = await copiedDisk(directory, format);
      await damage(disk, offset);
      await assert.rejects(verifyCopy(disk, options(directory)), { code: 'MIGRATION_FAILED' });
    };
    await Promise.all([2 * MIB + 512, 4 * MIB, SIZE - 512].map(findsIt));
  });
}

test('what differs where the guest writes is counted, and does not fail the comparison', async (t) => {
  const directory = await t.tempDir();
  const disk = await copiedDisk(directory, 'raw');
  await damage(disk, MIB);
  disk.device.marks?.write({ offset: MIB + 4096, length: 512 });
  const found = await verifyCopy(disk, options(directory));
  assert.deepEqual(found, { equalBytes: SIZE - MARK_BYTES, busyBytes: MARK_BYTES });
});

test('a place that becomes equal a moment later is equal', async (t) => {
  const directory = await t.tempDir();
  const disk = await copiedDisk(directory, 'raw');
  const late = Buffer.alloc(512, 7);
  await disk.device.write(0, late);
  disk.device.marks = new WriteMarks(SIZE);
  const verifying = verifyCopy(disk, {
    ...options(directory),
    onProgress: (done) => {
      if (done === SIZE) void tool('qemu-io', '-f', 'raw', '-c', 'write -P 7 0 512', disk.target.path);
    },
  });
  assert.deepEqual(await verifying, { equalBytes: SIZE, busyBytes: 0 });
});

const PRESENT = `<domain type="kvm"><name>web-test</name><metadata>
  <other:tool xmlns:other="urn:other"/>
  <understudy:domain xmlns:understudy="https://understudy.dev/xmlns/domain/1" purpose="boot" point="p" machine="m" owner="o"/>
</metadata><memory>1</memory>
<os><type>hvm</type><nvram template="/t">/state/sessions/x/nvram</nvram></os><devices>
<disk type="network" device="disk"><driver name="qemu" type="raw" cache="none" error_policy="stop" rerror_policy="stop"/>
  <source protocol="nbd" name="web-test/vda"><host transport="unix" socket="/s"/></source><target dev="vda"/></disk>
<disk type="file" device="disk"><driver name="qemu" type="qcow2" error_policy="stop" rerror_policy="stop"/>
  <source file="/new/vdb"/><backingStore/><target dev="vdb"/></disk>
<disk type="file" device="disk"><driver name="qemu" type="raw" error_policy="report"/><source file="/own"/><target dev="vdc"/></disk>
<interface type="user"><link state="down"/></interface></devices></domain>`;
const SAVED = `<domain><devices><disk><driver error_policy="enospace"/><target dev="vdb"/></disk></devices></domain>`;

test('the lasting definition names the files, and nothing of the appliance', () => {
  const target = (disk: string, path: string): MovingDisk['target'] => ({
    disk,
    path,
    format: 'qcow2',
    sizeBytes: 1,
    name: disk,
  });
  const xml = lastingDefinition(PRESENT, {
    targets: [target('vda', '/new/vda'), target('vdb', '/new/vdb')],
    nvramPath: '/new/nvram',
    saved: SAVED,
  });
  assert.doesNotMatch(xml, /understudy|nbd|sessions|backingStore|"stop"/);
  assert.match(
    xml,
    /<disk type="file" device="disk"><driver name="qemu" type="qcow2" cache="none"\/>\s*<source file="\/new\/vda"\/>/,
  );
  assert.match(xml, /type="qcow2" error_policy="enospace"\/>\s*<source file="\/new\/vdb"\/>/);
  assert.match(xml, /error_policy="report"\/><source file="\/own"/);
  assert.match(xml, /<nvram template="\/t">\/new\/nvram<\/nvram>/);
  assert.match(xml, /<other:tool/);
  assert.match(xml, /link state="down"/);
  const bare = lastingDefinition(PRESENT.replace('<other:tool xmlns:other="urn:other"/>', ''), {
    targets: [],
    nvramPath: undefined,
    saved: undefined,
  });
  assert.doesNotMatch(bare, /metadata/);
});

test('firmware variables get a second name, and what is written to them later is in both', async (t) => {
  const directory = await t.tempDir();
  const [from, to] = [join(directory, 'nvram'), join(directory, 'web-nvram.fd')];
  await writeFile(from, 'old');
  assert.match((await moveNvram(from, to, () => undefined)) ?? '', /are in/);
  await writeFile(from, 'new');
  assert.equal(await readFile(to, 'utf8'), 'new');
  await moveNvram(from, to, () => undefined);
  assert.equal((await stat(to)).nlink, 2);
});

test(
  'on another file system firmware variables are copied, and it is said',
  async (t) => {
    const directory = await t.tempDir();
    const other = t.use(await SmallFileSystem.mount(join(directory, 'other'), MIB));
    await writeFile(join(directory, 'nvram'), 'variables');
    const sentence = await moveNvram(join(directory, 'nvram'), join(other.path, 'nvram.fd'), () => undefined);
    assert.match(sentence ?? '', /lost/);
    assert.equal(await readFile(join(other.path, 'nvram.fd'), 'utf8'), 'variables');
  },
  { requires: MOUNT_REQUIREMENTS },
);
