// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { BlockDevice } from '../block/block-device.ts';
import { pairedExtents } from '../block/compare-devices.ts';
import { cutAtMultiples } from '../block/extent-walk.ts';
import { MARK_BYTES } from '../block/marked-device.ts';
import { runPipeline, throwIfAborted } from '../block/pipeline.ts';
import { unaligned } from '../block/unaligned-device.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import type { Extent, Range } from '../core/extents.ts';
import { storageError } from '../core/file-system.ts';
import { QemuNbd } from '../hypervisor/qemu-nbd.ts';
import { connectNbd } from '../nbd/client/connect.ts';
import type { MovingDisk } from './migration-copy.ts';
import { removeTree } from './point-exports.ts';

export interface VerifyOptions {
  /** For a socket; short. */
  readonly directory: string;
  readonly signal: AbortSignal;
  readonly onProgress: (doneBytes: number) => void;
}

/** What was looked at; the two together are the disk. */
export interface Verified {
  /** Found equal in both places, or zero in both. */
  readonly equalBytes: number;
  /** Written by the guest meanwhile, to both places at once: nothing can be said of it from outside. */
  readonly busyBytes: number;
}

const REQUEST_BYTES: number = 1024 * 1024;
const LANES = 4;
/** A write that was on its way when the marks were set is in both places soon. */
const RETRIES = 8;
const RETRY_MS = 250;

/**
 * Compares a disk with its copy while the machine runs and QEMU writes to both. The copy was flushed when it became ready,
 * and every place that was written since is marked: what differs and has no mark, again and again, is a bad copy. The
 * image is read through a qemu-nbd of our own that shares it.
 * @throws ApplianceError MIGRATION_FAILED when the copy is bad; ABORTED, TOOL_MISSING, TOOL_FAILED, those of the devices
 */
export async function verifyCopy(disk: MovingDisk, options: VerifyOptions): Promise<Verified> {
  const suspects: Range[] = [];
  let busyBytes = 0;
  await withCopy(disk, options, async (copy) => {
    busyBytes = await compareMarked({ disk, copy, suspects }, options);
  });
  for (const range of suspects) if (await isBusy(disk, range, options)) busyBytes += range.length;
  return { equalBytes: disk.device.sizeBytes - busyBytes, busyBytes };
}

/** The copy as it is now: whoever reads it keeps the image's metadata in a cache, so that a second look takes a new reader. */
async function withCopy(
  { target }: MovingDisk,
  { directory, signal }: VerifyOptions,
  work: (copy: BlockDevice) => Promise<void>,
): Promise<void> {
  const { path, format } = target;
  await using stack = new AsyncDisposableStack();
  const socketPath = join(directory, `${randomBytes(4).toString('hex')}.sock`);
  stack.defer(() => removeTree(socketPath));
  stack.use(await QemuNbd.start({ path, format, socketPath, exportName: 'copy', isShared: true }));
  const uri = `nbd+unix:///copy?socket=${encodeURIComponent(socketPath)}`;
  await work(unaligned(stack.use(await connectNbd(uri, { reconnect: false, signal }))));
}

/** Whether we may read the copy at all: without root it belongs to QEMU's user, when that is another. */
export async function canVerify({ target }: MovingDisk): Promise<boolean> {
  try {
    await access(target.path, constants.R_OK);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'EACCES') return false;
    throw storageError(error, 'read', target.path);
  }
}

interface Comparison {
  readonly disk: MovingDisk;
  readonly copy: BlockDevice;
  /** Receives what differs and has no mark. */
  readonly suspects: Range[];
}

/** Settles with the bytes that differ and have a mark. */
async function compareMarked({ disk, copy, suspects }: Comparison, options: VerifyOptions): Promise<number> {
  const source = unaligned(disk.device);
  let busyBytes = 0;
  let doneBytes = 0;

  async function* requests(): AsyncGenerator<Extent, void, undefined> {
    for await (const extent of pairedExtents(source, copy)) {
      if (extent.kind === 'data') yield* cutAtMultiples(extent, REQUEST_BYTES);
      else options.onProgress((doneBytes += extent.length));
    }
  }

  await runPipeline({
    items: requests(),
    lanes: LANES,
    signal: options.signal,
    start: () => {
      const buffers = pairOfBuffers(REQUEST_BYTES);
      return async (request) => {
        for (const range of await differences(source, copy, { request, buffers })) {
          if (disk.device.marks?.has(range) === true) busyBytes += range.length;
          else suspects.push(range);
        }
        options.onProgress((doneBytes += request.length));
      };
    },
  });
  return busyBytes;
}

/** Looks at a place again until it is equal, or marked (true). @throws ApplianceError MIGRATION_FAILED, as `verifyCopy` */
async function isBusy(disk: MovingDisk, range: Range, options: VerifyOptions): Promise<boolean> {
  const source = unaligned(disk.device);
  const buffers = pairOfBuffers(range.length);
  for (let tries = 0; tries < RETRIES; tries++) {
    await delay(RETRY_MS, undefined, { signal: options.signal }).catch(() => undefined);
    throwIfAborted(options.signal);
    let isEqual = false;
    await withCopy(disk, options, async (copy) => {
      isEqual = (await differences(source, copy, { request: range, buffers })).length === 0;
    });
    if (isEqual) return false;
    if (disk.device.marks?.has(range) === true) return true;
  }
  const [mine, theirs] = buffers;
  throw new ApplianceError('MIGRATION_FAILED', `the copy differs from the disk at ${range.offset}`, {
    details: { ...range, isDiskZero: !mine.some(Boolean), isCopyZero: !theirs.some(Boolean) },
    hint: 'The machine goes on running from the appliance. Look at the memory and the storage of this host.',
  });
}

type Buffers = readonly [Buffer, Buffer];

function pairOfBuffers(length: number): Buffers {
  return [Buffer.allocUnsafeSlow(length), Buffer.allocUnsafeSlow(length)];
}

/** The marked units of a request in which the two differ. A shorter device ends in zeroes. */
async function differences(
  source: BlockDevice,
  copy: BlockDevice,
  { request, buffers }: { readonly request: Range; readonly buffers: Buffers },
): Promise<Range[]> {
  const [mine, theirs] = [buffers[0].subarray(0, request.length), buffers[1].subarray(0, request.length)];
  await readPadded(source, request.offset, mine);
  await readPadded(copy, request.offset, theirs);
  if (mine.equals(theirs)) return [];
  const found: Range[] = [];
  for (const unit of cutAtMultiples({ ...request, kind: 'data' }, MARK_BYTES)) {
    const from = unit.offset - request.offset;
    if (mine.subarray(from, from + unit.length).equals(theirs.subarray(from, from + unit.length))) continue;
    found.push({ offset: unit.offset, length: unit.length });
  }
  return found;
}

async function readPadded(device: BlockDevice, offset: number, into: Buffer): Promise<void> {
  const length = Math.max(0, Math.min(into.length, device.sizeBytes - offset));
  if (length > 0) await device.read(offset, into.subarray(0, length));
  into.fill(0, length);
}
