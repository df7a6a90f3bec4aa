// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice, BlockFeatures, BlockLimits, DataWrite } from '../../block/block-device.ts';
import type { Extent, Range } from '../../core/extents.ts';
import type { Appended, WriteSink } from '../../volume/write-layer.ts';

/** `group`: acknowledged when the operating system has it. `write`: when it is on stable storage. */
export type Durability = 'group' | 'write';

export interface JournalTargetOptions {
  readonly log: WriteSink;
  /** Number of the disk in the log. */
  readonly disk: number;
  readonly sizeBytes: number;
  readonly durability: Durability;
  /** For reads, which no mirror makes: the disk as it is now. */
  readonly volume: () => BlockDevice;
}

const MAX_REQUEST_BYTES: number = 32 * 1024 * 1024;

/**
 * What a mirror writes to once its copy is complete: every change is appended to the log, and acknowledged then, never
 * later than that. Nothing is compared and nothing waits for folding. The log gives the order.
 *
 * Errors: those of the log. Closing it closes nothing.
 */
export class JournalTarget implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits = { minimumBytes: 1, preferredBytes: 4096, maximumBytes: MAX_REQUEST_BYTES };
  readonly features: BlockFeatures = {
    isReadOnly: false,
    canFlush: true,
    canFua: true,
    canTrim: true,
    canZero: true,
    canFastZero: true,
    canCache: false,
    canExtents: false,
    isMultiConnSafe: true,
  };
  readonly #options: JournalTargetOptions;
  #last: Appended | undefined;

  constructor(options: JournalTargetOptions) {
    this.#options = options;
    this.sizeBytes = options.sizeBytes;
  }

  /** Where its last change stands in the log. */
  get last(): Appended | undefined {
    return this.#last;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    await this.#options.volume().read(offset, into);
  }

  async write(offset: number, data: Buffer, options: { readonly fua?: boolean } = {}): Promise<void> {
    const { log, disk } = this.#options;
    this.#last = await log.append({ disk, offset, data });
    await this.#flushIf(options.fua);
  }

  writeNow(writes: readonly DataWrite[]): boolean {
    const { log, disk, durability } = this.#options;
    const appended = durability === 'group' ? log.appendNow?.(disk, writes) : undefined;
    if (appended !== undefined) this.#last = appended;
    return appended !== undefined;
  }

  async zero({ offset, length }: Range, options: { readonly fua?: boolean } = {}): Promise<void> {
    const { log, disk } = this.#options;
    this.#last = await log.appendZero({ disk, offset, length }, 'zero');
    await this.#flushIf(options.fua);
  }

  async trim({ offset, length }: Range, options: { readonly fua?: boolean } = {}): Promise<void> {
    const { log, disk } = this.#options;
    this.#last = await log.appendZero({ disk, offset, length }, 'trim');
    await this.#flushIf(options.fua);
  }

  async flush(): Promise<void> {
    await this.#options.log.flush();
  }

  async cache(): Promise<void> {}

  extents(range: Range): Promise<Extent[]> {
    return Promise.resolve([{ offset: range.offset, length: range.length, kind: 'data' }]);
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}

  async #flushIf(fua: boolean | undefined): Promise<void> {
    if (fua === true || this.#options.durability === 'write') await this.#options.log.flush();
  }
}
