// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { MARK_BYTES, MarkedDevice, WriteMarks } from '../../appliance/block/marked-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { suite } from '../support/suite.ts';

const test = suite('marked device');
const UNITS = 8;

/** The units that have a mark. */
function marked(marks: WriteMarks): number[] {
  return Array.from({ length: UNITS }, (_, unit) => unit).filter((unit) =>
    marks.has({ offset: unit * MARK_BYTES, length: MARK_BYTES }),
  );
}

test('writes, zeroes and trims mark each unit that they touch', async () => {
  const device = new MarkedDevice(memoryDevice({ sizeBytes: UNITS * MARK_BYTES }));
  await device.write(0, Buffer.alloc(1));
  device.marks = new WriteMarks(device.sizeBytes);
  assert.deepEqual(marked(device.marks), []);
  await device.write(MARK_BYTES - 1, Buffer.alloc(2));
  await device.zero({ offset: 3 * MARK_BYTES, length: 1 });
  await device.trim({ offset: 5 * MARK_BYTES, length: 2 * MARK_BYTES });
  await device.read(7 * MARK_BYTES, Buffer.alloc(10));
  assert.deepEqual(marked(device.marks), [0, 1, 3, 5, 6]);
});

test('renewed twice, marks of writes are gone, and those of trims stay', async () => {
  const device = new MarkedDevice(memoryDevice({ sizeBytes: UNITS * MARK_BYTES }));
  const marks = new WriteMarks(device.sizeBytes);
  device.marks = marks;
  await device.write(0, Buffer.alloc(1));
  await device.trim({ offset: MARK_BYTES, length: MARK_BYTES });
  marks.renew();
  await device.write(4 * MARK_BYTES, Buffer.alloc(1));
  assert.deepEqual(marked(marks), [0, 1, 4]);
  marks.renew();
  assert.deepEqual(marked(marks), [1, 4]);
  marks.renew();
  assert.deepEqual(marked(marks), [1]);
});

test('a write that is held up has its mark already', async () => {
  const memory = memoryDevice({ sizeBytes: UNITS * MARK_BYTES });
  const release = Promise.withResolvers<void>();
  const device = new MarkedDevice({ ...memory, write: () => release.promise });
  const marks = new WriteMarks(UNITS * MARK_BYTES);
  device.marks = marks;
  const writing = device.write(2 * MARK_BYTES, Buffer.alloc(1));
  assert.deepEqual(marked(marks), [2]);
  release.resolve();
  await writing;
});
