// SPDX-License-Identifier: Apache-2.0
import { connectNbd } from '../appliance/nbd/client/connect.ts';
import { run } from '../lab/run.ts';
import { logText, randomBytesOf } from './generated-content.ts';
import { serveByQemu } from './server-process.ts';
import { Seeded } from './statistics.ts';

export const BITMAP = 'bench';

const WRITE_BYTES: number = 64 * 1024;
const ALIGNMENT_BYTES = 4096;

export interface DirtyImage {
  readonly path: string;
  readonly backingPath: string;
  readonly sizeBytes: number;
  readonly changedBytes: number;
  /** Of a server that takes the changes. */
  readonly socketPath: string;
}

/**
 * A qcow2 image over the raw disk, with a persistent dirty bitmap (64 KiB, QEMU's default) and then changes: writes of
 * 64 KiB at random offsets that are multiples of 4 KiB, so that most of them dirty two granules. Half of them are text,
 * half random.
 */
export async function makeDirtyImage(image: DirtyImage): Promise<void> {
  const { path, backingPath } = image;
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', backingPath, '-F', 'raw', path]);
  await run('qemu-img', ['bitmap', '--add', path, BITMAP]);
  await using server = await serveByQemu({ path, format: 'qcow2', socketPath: image.socketPath, isWritable: true });
  await using device = await connectNbd(server.uri());
  const random = new Seeded(64);
  const places = Math.floor((image.sizeBytes - WRITE_BYTES) / ALIGNMENT_BYTES);
  for (let written = 0, n = 0; written < image.changedBytes; written += WRITE_BYTES, n++) {
    const data = (n % 2 === 0 ? logText : randomBytesOf)(n + 1_000_000, WRITE_BYTES);
    await device.write(random.below(places) * ALIGNMENT_BYTES, data);
  }
  await device.flush();
}
