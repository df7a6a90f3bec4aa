// SPDX-License-Identifier: Apache-2.0
import {
  type BlockDevice,
  type BlockFeatures,
  type BlockLimits,
  BYTE_LIMITS,
  type DataWrite,
  type WriteOptions,
  type ZeroOptions,
} from '../../appliance/block/block-device.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { appendExtent, type Extent, type ExtentKind, endOf, type Range } from '../../appliance/core/extents.ts';
import { invariant } from '../../appliance/core/invariant.ts';

export interface ServerMemoryOptions {
  readonly sizeBytes: number;
  readonly limits?: BlockLimits;
  readonly features?: Partial<BlockFeatures>;
  /** Offers `readCached`. */
  readonly isCached?: boolean;
  /** Offers `writeNow`, which writes what it says so of. */
  readonly writesNow?: (writes: readonly DataWrite[]) => boolean;
}

const ALLOCATION_UNIT_BYTES = 4096;
const EVERYTHING: BlockFeatures = {
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

/** A disk in memory that records what was asked of it and can be told to fail or to wait. */
export class ServerMemoryDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  readonly content: Buffer;
  readonly calls: string[] = [];
  /** Called before each operation; may throw or wait. */
  before: (operation: string, range: Range) => Promise<void> | void = () => undefined;
  readCached?: (offset: number, into: Buffer) => boolean;
  writeNow?: (writes: readonly DataWrite[]) => boolean;
  isClosed = false;
  readonly #kinds: ExtentKind[];

  constructor(options: ServerMemoryOptions) {
    this.sizeBytes = options.sizeBytes;
    this.limits = options.limits ?? BYTE_LIMITS;
    this.features = { ...EVERYTHING, ...options.features };
    this.content = Buffer.alloc(options.sizeBytes);
    this.#kinds = Array.from<ExtentKind>({ length: Math.ceil(this.sizeBytes / ALLOCATION_UNIT_BYTES) }).fill('hole');
    const { writesNow } = options;
    if (writesNow !== undefined) this.writeNow = (writes) => writesNow(writes) && this.#putNow(writes);
    if (options.isCached !== true) return;
    this.readCached = (offset, into) => {
      this.content.copy(into, 0, offset, offset + into.length);
      return true;
    };
  }

  async read(offset: number, into: Buffer): Promise<void> {
    const range = this.#valid({ offset, length: into.length }, this.limits.maximumBytes);
    await this.#enter('read', range);
    this.content.copy(into, 0, offset, offset + into.length);
  }

  async write(offset: number, data: Buffer, options: WriteOptions = {}): Promise<void> {
    const range = this.#valid({ offset, length: data.length }, this.limits.maximumBytes);
    await this.#enter(options.fua === true ? 'write fua' : 'write', range);
    data.copy(this.content, offset);
    this.#mark(range, 'data');
  }

  #putNow(writes: readonly DataWrite[]): boolean {
    this.calls.push(`write now ${writes.map(({ offset, data }) => `${offset}+${data.length}`).join(', ')}`);
    for (const { offset, data } of writes) {
      data.copy(this.content, offset);
      this.#mark({ offset, length: data.length }, 'data');
    }
    return true;
  }

  async zero(range: Range, options: ZeroOptions = {}): Promise<void> {
    this.#valid(range);
    const words = ['zero', options.fua && 'fua', options.keepAllocated && 'keep', options.fastOnly && 'fast'];
    await this.#enter(words.filter(Boolean).join(' '), range);
    this.content.fill(0, range.offset, endOf(range));
    this.#mark(range, options.keepAllocated === true ? 'zero' : 'hole');
  }

  async trim(range: Range, options: WriteOptions = {}): Promise<void> {
    this.#valid(range);
    await this.#enter(options.fua === true ? 'trim fua' : 'trim', range);
    this.content.fill(0, range.offset, endOf(range));
    this.#mark(range, 'hole');
  }

  async flush(): Promise<void> {
    await this.#enter('flush', { offset: 0, length: 0 });
  }

  async cache(range: Range): Promise<void> {
    await this.#enter('cache', this.#valid(range));
  }

  async extents(range: Range): Promise<Extent[]> {
    await this.#enter('extents', this.#valid(range));
    const extents: Extent[] = [];
    for (let offset = range.offset; offset < endOf(range); ) {
      const unit = Math.floor(offset / ALLOCATION_UNIT_BYTES);
      const end = Math.min((unit + 1) * ALLOCATION_UNIT_BYTES, endOf(range));
      appendExtent(extents, { offset, length: end - offset, kind: this.#kinds[unit] ?? 'data' });
      offset = end;
    }
    return extents;
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #enter(operation: string, range: Range): Promise<void> {
    if (this.isClosed) throw new ApplianceError('CLOSED', 'the device is closed');
    if (operation !== 'read') this.calls.push(`${operation} ${range.offset}+${range.length}`);
    await this.before(operation, range);
  }

  /** The contract of BlockDevice: whoever calls has checked this. */
  #valid(range: Range, maximumBytes: number = Number.MAX_SAFE_INTEGER): Range {
    const unit = this.limits.minimumBytes;
    invariant(range.length > 0 && range.length <= maximumBytes, 'the length of a request is in bounds');
    invariant(range.offset >= 0 && endOf(range) <= this.sizeBytes, 'a request lies inside the device');
    invariant(range.offset % unit === 0 && range.length % unit === 0, 'a request is aligned');
    return range;
  }

  #mark(range: Range, kind: ExtentKind): void {
    const first = Math.floor(range.offset / ALLOCATION_UNIT_BYTES);
    const last = Math.floor((endOf(range) - 1) / ALLOCATION_UNIT_BYTES);
    for (let unit = first; unit <= last; unit++) {
      const start = unit * ALLOCATION_UNIT_BYTES;
      const isWhole = start >= range.offset && Math.min(start + ALLOCATION_UNIT_BYTES, this.sizeBytes) <= endOf(range);
      if (isWhole) this.#kinds[unit] = kind;
      else if (kind === 'data') this.#kinds[unit] = 'data';
    }
  }
}
