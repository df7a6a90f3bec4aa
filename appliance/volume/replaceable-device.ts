// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice, BlockFeatures, BlockLimits } from '../block/block-device.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Extent, Range } from '../core/extents.ts';
import { invariant } from '../core/invariant.ts';

/**
 * A read-only device that stands for another one, which can be replaced between two requests: what lies beneath a log, when
 * the log has been folded. Requests that have begun end on the one that they began on. Errors are those of the device.
 */
export class ReplaceableDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  private current: BlockDevice;

  constructor(first: BlockDevice) {
    invariant(first.features.isReadOnly, 'what is replaced is never written');
    this.sizeBytes = first.sizeBytes;
    this.limits = first.limits;
    this.features = first.features;
    this.current = first;
  }

  /** From this turn on requests go to another device of the same size, which takes the limits and features of the first. */
  replace(next: BlockDevice): void {
    invariant(next.sizeBytes === this.sizeBytes, 'a device is replaced by one of the same size');
    this.current = next;
  }

  readCached(offset: number, into: Buffer): boolean {
    return this.current.readCached?.(offset, into) === true;
  }

  read(offset: number, into: Buffer): Promise<void> {
    return this.current.read(offset, into);
  }

  extents(range: Range): Promise<Extent[]> {
    return this.current.extents(range);
  }

  cache(range: Range): Promise<void> {
    return this.current.cache(range);
  }

  async flush(): Promise<void> {}

  write(): Promise<void> {
    return Promise.reject(readOnly());
  }

  zero(): Promise<void> {
    return Promise.reject(readOnly());
  }

  trim(): Promise<void> {
    return Promise.reject(readOnly());
  }

  close(): Promise<void> {
    return this.current.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function readOnly(): ApplianceError {
  return new ApplianceError('READ_ONLY', 'what lies beneath a log never changes');
}
