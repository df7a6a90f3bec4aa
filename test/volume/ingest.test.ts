// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { type ContentKey, keyToHex, ZERO_KEY } from '../../appliance/core/content-id.ts';
import type { Extent } from '../../appliance/core/extents.ts';
import type { ChunkWriter } from '../../appliance/repository/chunk-writer.ts';
import { type IngestResult, ingest } from '../../appliance/volume/ingest.ts';
import { PointDevice } from '../../appliance/volume/point-device.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { Dice, ModelDisk } from '../support/point-model.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const CHUNK = 64 * KIB;

async function makeFixture(t: TestContext): Promise<FixtureRepository> {
  return t.use(await FixtureRepository.create(await t.tempDir()));
}

async function deviceOf(content: Buffer): Promise<BlockDevice> {
  const device = memoryDevice({ sizeBytes: content.length });
  for (let at = 0; at < content.length; at += MIB) await device.write(at, content.subarray(at, at + MIB));
  return device;
}

interface Step {
  readonly content: Buffer;
  readonly changes: readonly Extent[];
  readonly base?: ContentKey;
}

async function store(fixture: FixtureRepository, writer: ChunkWriter, step: Step): Promise<IngestResult> {
  const source = await deviceOf(step.content);
  const { base = ZERO_KEY, changes } = step;
  const result = await ingest({ source, changes, base, reader: fixture.repository.reader, writer });
  await writer.seal();
  return result;
}

async function contentAt({ repository }: FixtureRepository, root: ContentKey, sizeBytes: number): Promise<Buffer> {
  repository.reader.dropCaches();
  const { reader, chunkBytes } = repository;
  await using device = new PointDevice({ reader, chunkBytes, root, sizeBytes });
  const content = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at += MIB) await device.read(at, content.subarray(at, at + MIB));
  return content;
}

function all(content: Buffer): Extent[] {
  return [{ offset: 0, length: content.length, kind: 'data' }];
}

const test = suite('ingest');

test('random, repeated and zero contents of any size read back bit by bit', async (t) => {
  const fixture = await makeFixture(t);
  const dice = new Dice(1);
  for (const sizeBytes of [1, 512, CHUNK - 1, CHUNK, CHUNK + 1, 3 * MIB, 5 * MIB + 7 * 512, 65 * CHUNK]) {
    const disk = new ModelDisk(sizeBytes, dice);
    for (let n = 0; n < 20; n++) disk.scribble(Math.ceil(sizeBytes / 4));
    await using writer = fixture.repository.openWriter();
    const { root, readBytes } = await store(fixture, writer, { content: disk.content, changes: all(disk.content) });
    assert.equal(readBytes, sizeBytes);
    assert.ok((await contentAt(fixture, root, sizeBytes)).equals(disk.content), `${sizeBytes} bytes`);
  }
});

test('incrementals share what did not change, and every state stays readable', async (t) => {
  const fixture = await makeFixture(t);
  const disk = new ModelDisk(6 * MIB + 512, new Dice(2));
  disk.fillWithNoise();
  const states: { root: ContentKey; content: Buffer }[] = [];
  for (let n = 0; n < 6; n++) {
    await using writer = fixture.repository.openWriter();
    const base = states.at(-1)?.root;
    const changes = disk.takeChanges();
    const step = base === undefined ? { changes } : { changes, base };
    const { root, coveredBytes } = await store(fixture, writer, { content: disk.content, ...step });
    states.push({ root, content: Buffer.from(disk.content) });
    const changed = changes.reduce((sum, { length }) => sum + length, 0);
    assert.ok(coveredBytes <= changed + 2 * CHUNK * changes.length);
    if (n > 0) assert.ok(writer.stats.newChunks <= Math.ceil(coveredBytes / CHUNK), `${writer.stats.newChunks}`);
    for (let k = 0; k < 3; k++) disk.scribble(200 * KIB);
  }
  for (const { root, content } of states) assert.ok((await contentAt(fixture, root, content.length)).equals(content));
});

test('zero extents override the base, and only whole chunks of zeroes are stored as such', async (t) => {
  const fixture = await makeFixture(t);
  const content = new Dice(3).bytes(4 * MIB);
  await using writer = fixture.repository.openWriter();
  const { root: base } = await store(fixture, writer, { content, changes: all(content) });
  content.fill(0, MIB + 100, 3 * MIB - 100);
  const changes: Extent[] = [{ offset: MIB + 100, length: 2 * MIB - 200, kind: 'hole' }];
  const { root, readBytes, dataChunks } = await store(fixture, writer, { content, changes, base });
  assert.equal(readBytes, 2 * CHUNK);
  assert.equal(dataChunks, 64 - 32 + 2);
  assert.ok((await contentAt(fixture, root, content.length)).equals(content));
});

test('a disk of zeroes has the zero map and stores nothing', async (t) => {
  const fixture = await makeFixture(t);
  await using writer = fixture.repository.openWriter();
  const content = Buffer.alloc(3 * MIB);
  const { root, dataChunks } = await store(fixture, writer, { content, changes: all(content) });
  assert.equal(keyToHex(root), '00'.repeat(32));
  assert.equal(dataChunks, 0);
  assert.equal((await fixture.catalog.packs()).size, 0);
});

test('what is known is not stored again: not by the same run, a later one, nor one at the same time', async (t) => {
  const fixture = await makeFixture(t);
  const noise = new Dice(4).bytes(MIB);
  const content = Buffer.concat([noise, noise, noise]);
  await using first = fixture.repository.openWriter();
  const once = await store(fixture, first, { content, changes: all(content) });
  assert.equal(first.stats.newChunks, 16);
  await using later = fixture.repository.openWriter();
  const again = await store(fixture, later, { content, changes: all(content) });
  assert.equal(later.stats.newChunks, 0);
  assert.equal(later.stats.storedBytes, 0);
  assert.equal(again.root, once.root);
});

test('several writers at once store the same and different contents, and all of it reads back', async (t) => {
  const fixture = await makeFixture(t);
  const shared = new Dice(5).bytes(MIB);
  const contents = [1, 2, 3, 4].map((n) => Buffer.concat([shared, new Dice(50 + n).bytes(MIB), shared]));
  const roots = await Promise.all(
    contents.map(async (content) => {
      await using writer = fixture.repository.openWriter();
      return (await store(fixture, writer, { content, changes: all(content) })).root;
    }),
  );
  for (const [n, root] of roots.entries()) {
    const content = contents[n] ?? Buffer.alloc(0);
    assert.ok((await contentAt(fixture, root, content.length)).equals(content), `writer ${n}`);
  }
});

test('a source that fails ends the run with its error, and leaves the repository as it was', async (t) => {
  const fixture = await makeFixture(t);
  const inner = await deviceOf(new Dice(6).bytes(8 * MIB));
  const source: BlockDevice = Object.create(inner, {
    read: {
      value: (offset: number, into: Buffer) =>
        offset >= 4 * MIB ? Promise.reject(new Error('the source died')) : inner.read(offset, into),
    },
  }) as BlockDevice;
  await using writer = fixture.repository.openWriter();
  const input = {
    source,
    changes: all(Buffer.alloc(8 * MIB)),
    base: ZERO_KEY,
    reader: fixture.repository.reader,
    writer,
  };
  await assert.rejects(ingest(input), /the source died/);
  await writer.close();
  assert.equal((await fixture.catalog.packs()).size, 0);
  assert.equal(await fixture.repository.store.removeStaged(), 0);
  await using next = fixture.repository.openWriter();
  const content = new Dice(7).bytes(24 * MIB);
  const { root } = await store(fixture, next, { content, changes: all(content) });
  assert.ok((await contentAt(fixture, root, content.length)).equals(content), 'no slab was lost');
});

test('an aborted run stops soon, and gives its memory back', async (t) => {
  const fixture = await makeFixture(t);
  const content = new Dice(8).bytes(16 * MIB);
  const source = await deviceOf(content);
  for (let round = 0; round < 3; round++) {
    const stop = new AbortController();
    await using writer = fixture.repository.openWriter();
    const attempt = ingest({
      source,
      changes: all(content),
      base: ZERO_KEY,
      reader: fixture.repository.reader,
      writer,
      signal: stop.signal,
      onProgress: ({ readBytes }) => {
        if (readBytes >= 2 * MIB) stop.abort();
      },
    });
    await rejectsWith(attempt, 'ABORTED');
  }
  await using writer = fixture.repository.openWriter();
  const { root } = await store(fixture, writer, { content, changes: all(content) });
  assert.ok((await contentAt(fixture, root, content.length)).equals(content));
});

test('a damaged chunk of the base is not taken along unseen: it stays what it was, and reading it fails', async (t) => {
  const fixture = await makeFixture(t);
  const content = new Dice(9).bytes(2 * MIB);
  await using writer = fixture.repository.openWriter();
  const { root: base } = await store(fixture, writer, { content, changes: all(content) });
  const [packId] = [...(await fixture.catalog.packs()).keys()];
  const damaged = fixture.catalog.find(base);
  assert.ok(packId !== undefined && damaged !== undefined);
  await fixture.catalog.removePack(packId, []);
  const attempt = ingest({
    source: await deviceOf(content),
    changes: [{ offset: 0, length: 512, kind: 'data' }],
    base,
    reader: (fixture.repository.reader.dropCaches(), fixture.repository.reader),
    writer,
  });
  await rejectsWith(attempt, 'CHUNK_MISSING');
});

test('extents of a point say where data is, whole chunks at a time', async (t) => {
  const fixture = await makeFixture(t);
  const content = Buffer.alloc(10 * MIB + 100);
  new Dice(10).bytes(MIB).copy(content, 3 * MIB);
  content.writeUInt8(1, content.length - 1);
  await using writer = fixture.repository.openWriter();
  const { root } = await store(fixture, writer, { content, changes: all(content) });
  const { reader, chunkBytes } = fixture.repository;
  await using device = new PointDevice({ reader, chunkBytes, root, sizeBytes: content.length });
  assert.deepEqual(await device.extents({ offset: 0, length: content.length }), [
    { offset: 0, length: 3 * MIB, kind: 'hole' },
    { offset: 3 * MIB, length: MIB, kind: 'data' },
    { offset: 4 * MIB, length: 6 * MIB, kind: 'hole' },
    { offset: 10 * MIB, length: 100, kind: 'data' },
  ]);
  assert.deepEqual(await device.extents({ offset: 3 * MIB + 5, length: 10 }), [
    { offset: 3 * MIB + 5, length: 10, kind: 'data' },
  ]);
});
