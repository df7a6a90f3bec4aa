// SPDX-License-Identifier: Apache-2.0
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { checked } from '../../appliance/block/checked-device.ts';
import { createFileDevice, openFileDevice } from '../../appliance/block/file-device.ts';
import { MarkedDevice, WriteMarks } from '../../appliance/block/marked-device.ts';
import { type MemoryDeviceOptions, memoryDevice } from '../../appliance/block/memory-device.ts';
import { readOnly } from '../../appliance/block/read-only-device.ts';
import { unaligned } from '../../appliance/block/unaligned-device.ts';
import { FaultyDevice, someTurns } from '../support/faulty-device.ts';
import { blockDeviceConformance } from './conformance.ts';

const SECTORS = { minimumBytes: 512, preferredBytes: 4096, maximumBytes: 65_536 };

blockDeviceConformance('memory', (_t, content) => filledMemory(content));

blockDeviceConformance('memory with sectors of 512 bytes', (_t, content) => filledMemory(content, { limits: SECTORS }));

blockDeviceConformance('memory that only reads and writes', (_t, content) =>
  filledMemory(content, {
    features: {
      canFlush: false,
      canFua: false,
      canTrim: false,
      canZero: false,
      canFastZero: false,
      canCache: false,
      canExtents: false,
    },
  }),
);

blockDeviceConformance('new file', async (t, content) => {
  const device = await createFileDevice(join(await t.tempDir(), 'disk'), content.length);
  for (let offset = 0; offset < content.length; offset += 65_536) {
    const piece = content.subarray(offset, offset + 65_536);
    if (piece.some((byte) => byte !== 0)) await device.write(offset, piece);
  }
  return device;
});

blockDeviceConformance('read-only file', async (t, content) => {
  const path = join(await t.tempDir(), 'disk');
  await writeFile(path, content);
  return await openFileDevice(path, 'read-only');
});

blockDeviceConformance('read-only', async (_t, content) => readOnly(await filledMemory(content)));

blockDeviceConformance('unaligned over sectors of 512 bytes', async (_t, content) =>
  unaligned(await filledMemory(content, { limits: SECTORS })),
);

blockDeviceConformance('marked', async (_t, content) => {
  const device = new MarkedDevice(await filledMemory(content));
  device.marks = new WriteMarks(device.sizeBytes);
  return device;
});

blockDeviceConformance(
  'unaligned over a slow device with blocks of 4096 bytes',
  async (_t, content) => {
    const limits = { minimumBytes: 4096, preferredBytes: 4096, maximumBytes: 1024 * 1024 };
    const padded = Buffer.alloc(Math.ceil(content.length / 4096) * 4096);
    content.copy(padded);
    const slow = new FaultyDevice(await filledMemory(padded, { limits }), () => someTurns(2));
    return unaligned(checked(slow));
  },
  { sizeBytes: 261 * 4096 },
);

/** A memory device with this content; zero pages stay holes. */
async function filledMemory(
  content: Buffer,
  options: Omit<MemoryDeviceOptions, 'sizeBytes'> = {},
): Promise<BlockDevice> {
  const device = memoryDevice({ sizeBytes: content.length, ...options });
  for (let offset = 0; offset < content.length; offset += 65_536) {
    const piece = content.subarray(offset, offset + 65_536);
    if (piece.some((byte) => byte !== 0)) await device.write(offset, piece);
  }
  return device;
}
