// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { randomFillSync } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { walkExtents } from '../../appliance/block/extent-walk.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { ZERO_KEY } from '../../appliance/core/content-id.ts';
import { MAX_PACK_BYTES } from '../../appliance/repository/format.ts';
import { ingest } from '../../appliance/volume/ingest.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('an interrupted backup', { timeoutMs: 120_000 });
const MIB: number = 1024 * 1024;
const DISK_BYTES: number = MAX_PACK_BYTES + 24 * MIB;
/** So far the first run gets: its first pack is full by then. */
const STOP_AT: number = MAX_PACK_BYTES + 12 * MIB;

test('what it had stored in whole packs is found again, and the next one stores only the rest', async (t) => {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const { repository, catalog } = fixture;
  const disk = memoryDevice({ sizeBytes: DISK_BYTES });
  for (let at = 0; at < DISK_BYTES; at += MIB) await disk.write(at, randomFillSync(Buffer.alloc(MIB)));
  const everything = { offset: 0, length: DISK_BYTES };
  const read = disk.read.bind(disk);
  const controller = new AbortController();
  const interrupted = repository.openWriter();
  disk.read = async (offset, into, ...rest) => {
    if (offset >= STOP_AT && !controller.signal.aborted) {
      while ((await catalog.packs()).size === 0) await delay(5);
      controller.abort();
    }
    await read(offset, into, ...rest);
  };
  const source = disk;
  const { reader } = repository;
  const changes = (): ReturnType<typeof walkExtents> => walkExtents(disk, everything);
  const { signal } = controller;
  await rejectsWith(
    ingest({ source, changes: changes(), base: ZERO_KEY, reader, writer: interrupted, signal }),
    'ABORTED',
  );
  await interrupted.close();
  assert.equal((await catalog.packs()).size, 1);
  await using writer = repository.openWriter();
  await ingest({ source, changes: changes(), base: ZERO_KEY, reader, writer });
  await writer.seal();
  const { newChunkBytes } = writer.stats;
  assert.ok(newChunkBytes > 0 && newChunkBytes <= DISK_BYTES - MAX_PACK_BYTES + 2 * MIB, `${newChunkBytes}`);
});
