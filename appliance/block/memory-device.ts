// SPDX-License-Identifier: Apache-2.0
import { appendExtent, type Extent, endOf, type Range } from '../core/extents.ts';
import { type BlockDevice, type BlockFeatures, type BlockLimits, BYTE_LIMITS } from './block-device.ts';
import { checked } from './checked-device.ts';

export interface MemoryDeviceOptions {
  readonly sizeBytes: number;
  readonly limits?: BlockLimits;
  /** Replaces single claims, so that tests can have a device that cannot do something. */
  readonly features?: Partial<BlockFeatures>;
}

const PAGE_BYTES = 65_536;

const FEATURES: BlockFeatures = {
  isReadOnly: false,
  canFlush: true,
  canFua: true,
  canTrim: true,
  canZero: true,
  canFastZero: true,
  canCache: true,
  canExtents: true,
  isMultiConnSafe: true,
};

/** A sparse device in memory, zero at first; what was never written, or zeroed in whole pages of 64 KiB, is a hole. */
export function memoryDevice(options: MemoryDeviceOptions): BlockDevice {
  return checked(new MemoryDevice(options));
}

class MemoryDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  private readonly pages = new Map<number, Buffer>();

  constructor(options: MemoryDeviceOptions) {
    this.sizeBytes = options.sizeBytes;
    this.limits = options.limits ?? BYTE_LIMITS;
    this.features = { ...FEATURES, ...options.features };
  }

  readCached(offset: number, into: Buffer): boolean {
    this.copyOut(offset, into);
    return true;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    this.copyOut(offset, into);
  }

  private copyOut(offset: number, into: Buffer): void {
    for (const part of pageParts({ offset, length: into.length })) {
      const target = into.subarray(part.position, part.position + part.length);
      const page = this.pages.get(part.page);
      if (page === undefined) target.fill(0);
      else page.copy(target, 0, part.start, part.start + part.length);
    }
  }

  async write(offset: number, data: Buffer): Promise<void> {
    for (const part of pageParts({ offset, length: data.length })) {
      let page = this.pages.get(part.page);
      if (page === undefined) {
        page = Buffer.alloc(PAGE_BYTES);
        this.pages.set(part.page, page);
      }
      data.copy(page, part.start, part.position, part.position + part.length);
    }
  }

  async zero(range: Range): Promise<void> {
    for (const part of pageParts(range)) {
      const isWhole = part.length === PAGE_BYTES || part.page * PAGE_BYTES + part.length === this.sizeBytes;
      if (isWhole) this.pages.delete(part.page);
      else this.pages.get(part.page)?.fill(0, part.start, part.start + part.length);
    }
  }

  async trim(range: Range): Promise<void> {
    await this.zero(range);
  }

  async flush(): Promise<void> {}

  async cache(): Promise<void> {}

  async extents(range: Range): Promise<Extent[]> {
    const extents: Extent[] = [];
    const covered = Math.min(range.length, MAX_PAGES_PER_QUERY * PAGE_BYTES);
    for (const part of pageParts({ offset: range.offset, length: covered })) {
      const offset = part.page * PAGE_BYTES + part.start;
      appendExtent(extents, { offset, length: part.length, kind: this.pages.has(part.page) ? 'data' : 'hole' });
    }
    return extents;
  }

  async close(): Promise<void> {
    this.pages.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Bounds the work, and so the number of extents, of one query. */
const MAX_PAGES_PER_QUERY = 65_536;

interface PagePart {
  readonly page: number;
  /** Inside the page. */
  readonly start: number;
  readonly length: number;
  /** Inside the range. */
  readonly position: number;
}

function* pageParts(range: Range): Generator<PagePart, void, undefined> {
  let offset = range.offset;
  while (offset < endOf(range)) {
    const page = Math.floor(offset / PAGE_BYTES);
    const start = offset - page * PAGE_BYTES;
    const length = Math.min(PAGE_BYTES - start, endOf(range) - offset);
    yield { page, start, length, position: offset - range.offset };
    offset += length;
  }
}
