// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../appliance/core/clock.ts';
import {
  changeBitmap,
  compareImages,
  convertImage,
  createImage,
  imageInfo,
  mapImage,
  parseImageInfo,
  parseImageMap,
  resizeImage,
} from '../../appliance/hypervisor/qemu-img.ts';
import { runTool } from '../../appliance/hypervisor/tool.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('qemu-img', { requires: ['qemu-img'] });

const MIB = 1024 * 1024;

test('an image that was created says what it is, with its bitmaps', async (t) => {
  const location = join(await t.tempDir(), 'a:b,c.qcow2');
  await createImage({ location, format: 'qcow2' }, { sizeBytes: 4 * MIB, options: { compat: '1.1' } });
  await changeBitmap(location, { action: 'add', name: 'b1', granularityBytes: 128 * 1024 });
  await changeBitmap(location, { action: 'add', name: 'b2', granularityBytes: 128 * 1024, isDisabled: true });
  const info = await imageInfo({ location });
  assert.deepEqual(
    { ...info, actualSizeBytes: 0 },
    {
      location,
      format: 'qcow2',
      virtualSizeBytes: 4 * MIB,
      actualSizeBytes: 0,
      clusterSizeBytes: 65_536,
      backing: null,
      compat: '1.1',
      isCorrupt: false,
      isEncrypted: false,
      dataFile: null,
      bitmaps: [
        { name: 'b1', granularityBytes: 131_072, flags: ['auto'] },
        { name: 'b2', granularityBytes: 131_072, flags: [] },
      ],
    },
  );
  await changeBitmap(location, { action: 'merge', name: 'b1', from: 'b2' });
  await changeBitmap(location, { action: 'remove', name: 'b2' });
  await changeBitmap(location, { action: 'disable', name: 'b1' });
  assert.deepEqual((await imageInfo({ location })).bitmaps, [{ name: 'b1', granularityBytes: 131_072, flags: [] }]);
});

test('an overlay names its base, and a resize changes its size', async (t) => {
  const directory = await t.tempDir();
  const base = { location: join(directory, 'base.raw'), format: 'raw' };
  const overlay = { location: join(directory, 'overlay.qcow2'), format: 'qcow2' };
  await createImage(base, { sizeBytes: MIB });
  await createImage(overlay, { backing: base });
  const info = await imageInfo(overlay);
  assert.deepEqual([info.virtualSizeBytes, info.backing], [MIB, { location: base.location, format: 'raw' }]);
  await resizeImage(overlay, 2 * MIB);
  assert.equal((await imageInfo(overlay)).virtualSizeBytes, 2 * MIB);
  await rejectsWith(resizeImage(overlay, MIB), 'TOOL_FAILED');
  await resizeImage(overlay, MIB, { isShrink: true });
});

test('a copy compares equal, a changed one does not, and the map tells data from holes', async (t) => {
  const directory = await t.tempDir();
  const raw = { location: join(directory, 'a.raw'), format: 'raw' };
  const copy = { location: join(directory, 'a.qcow2'), format: 'qcow2' };
  const content = Buffer.alloc(MIB);
  content.fill(7, 65_536, 131_072);
  await writeFile(raw.location, content);
  const fractions: number[] = [];
  await convertImage(raw, copy, { onProgress: (fraction) => fractions.push(fraction) });
  assert.equal(fractions.at(-1), 1);
  assert.deepEqual(await compareImages(raw, copy), { isIdentical: true, message: 'Images are identical.' });
  assert.deepEqual(
    (await mapImage(copy)).map(({ offset, length, isData, isZero }) => ({ offset, length, isData, isZero })),
    [
      { offset: 0, length: 65_536, isData: false, isZero: true },
      { offset: 65_536, length: 65_536, isData: true, isZero: false },
      { offset: 131_072, length: MIB - 131_072, isData: false, isZero: true },
    ],
  );
  content[MIB - 1] = 1;
  await writeFile(raw.location, content);
  const { isIdentical, message } = await compareImages(raw, copy);
  assert.equal(isIdentical, false);
  assert.match(message, /^Content mismatch at offset/);
});

test('a failure carries the message and the exit code of the program', async (t) => {
  const location = join(await t.tempDir(), 'absent.qcow2');
  await rejectsWith(imageInfo({ location }), 'TOOL_FAILED');
  await assert.rejects(imageInfo({ location }), (error: Error & { details?: Record<string, unknown> }) => {
    assert.equal(error.details?.['exitCode'], 1);
    assert.match(String(error.details?.['stderr']), /No such file/);
    return true;
  });
  await rejectsWith(compareImages({ location, format: 'qcow2' }, { location, format: 'qcow2' }), 'TOOL_FAILED');
});

test('a program that is not there, takes too long, or is interrupted ends with its code and is gone', async () => {
  await rejectsWith(runTool('understudy-no-such-program', []), 'TOOL_MISSING');
  const startedAt = systemClock.elapsedMs();
  await rejectsWith(runTool('sleep', ['30'], { timeoutMs: 100 }), 'TIMED_OUT');
  await rejectsWith(runTool('sleep', ['30'], { signal: AbortSignal.timeout(100) }), 'ABORTED');
  await rejectsWith(runTool('sleep', ['30'], { signal: AbortSignal.abort() }), 'ABORTED');
  assert.ok(systemClock.elapsedMs() - startedAt < 5000);
  assert.equal((await runTool('sh', ['-c', 'exit 3'], { accepts: [0, 3] })).exitCode, 3);
});

test('output that is not what qemu-img prints is refused', async () => {
  for (const json of ['{}', '{"format":"raw"}', '{"format":"raw","virtual-size":-1}', '[]', 'null']) {
    await rejectsWith(
      Promise.resolve().then(() => parseImageInfo(json)),
      'TOOL_FAILED',
    );
  }
  await rejectsWith(
    Promise.resolve().then(() => parseImageMap('{}')),
    'TOOL_FAILED',
  );
});
