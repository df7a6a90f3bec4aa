// SPDX-License-Identifier: Apache-2.0
import type {
  BlockDevice,
  BlockFeatures,
  BlockLimits,
  DataWrite,
  WriteOptions,
  ZeroOptions,
} from '../../block/block-device.ts';
import { checked } from '../../block/checked-device.ts';
import type { Clock } from '../../core/clock.ts';
import { ApplianceError, toError } from '../../core/errors.ts';
import type { Extent, Range } from '../../core/extents.ts';
import type { AppendLatency } from './append-latency.ts';

export interface MirrorTargetOptions {
  readonly name: string;
  readonly seeding: BlockDevice;
  readonly clock: Clock;
  readonly latency: AppendLatency;
  /** Called at once, before the failed request is answered, with the first failure of a change. */
  readonly onFailure: (error: Error) => void;
}

/**
 * The device under which one disk of a machine is offered to its mirror: first over the seeding, then over the journal.
 * The change from one to the other waits until nothing runs on any disk of the machine; requests that come meanwhile wait
 * with it. Once a change has failed, or `refuse` was called, every later change is refused: a log that lacks one change
 * must not take those that came after it.
 */
export class MirrorTarget implements BlockDevice {
  readonly name: string;
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  /** To be offered: with the one check of arguments. */
  readonly device: BlockDevice;
  readonly #options: MirrorTargetOptions;
  #stage: BlockDevice;
  #running = 0;
  #gate: PromiseWithResolvers<void> | undefined;
  #whenIdle: (() => void) | undefined;
  #refusal: ApplianceError | undefined;

  constructor(options: MirrorTargetOptions) {
    this.#options = options;
    this.#stage = options.seeding;
    this.name = options.name;
    this.sizeBytes = options.seeding.sizeBytes;
    this.limits = options.seeding.limits;
    this.features = options.seeding.features;
    this.device = checked(this);
  }

  async read(offset: number, into: Buffer): Promise<void> {
    await this.#stage.read(offset, into);
  }

  async write(offset: number, data: Buffer, options?: WriteOptions): Promise<void> {
    await this.#change((stage) => stage.write(offset, data, options));
  }

  writeNow(writes: readonly DataWrite[]): boolean {
    if (this.#gate !== undefined || this.#refusal !== undefined || this.#stage.writeNow === undefined) return false;
    const { latency, clock } = this.#options;
    const startedMs = clock.elapsedMs();
    if (!this.#stage.writeNow(writes)) return false;
    latency.add(clock.elapsedMs() - startedMs, writes.length);
    return true;
  }

  async zero(range: Range, options?: ZeroOptions): Promise<void> {
    await this.#change((stage) => stage.zero(range, options));
  }

  async trim(range: Range, options?: WriteOptions): Promise<void> {
    await this.#change((stage) => stage.trim(range, options));
  }

  async flush(): Promise<void> {
    await this.#change((stage) => stage.flush());
  }

  async cache(): Promise<void> {}

  extents(range: Range): Promise<Extent[]> {
    return this.#stage.extents(range);
  }

  async close(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}

  /** Lets no new change begin; settles when none runs. `release` ends it. */
  async hold(): Promise<void> {
    this.#gate ??= Promise.withResolvers<void>();
    if (this.#running === 0) return;
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve;
    });
  }

  /** Lets changes go on, to `stage` when one is given. */
  release(stage?: BlockDevice): void {
    if (stage !== undefined) this.#stage = stage;
    const gate = this.#gate;
    this.#gate = undefined;
    gate?.resolve();
  }

  /** Refuses every change from now on, those that wait included. Idempotent: the first reason stays. */
  refuse(reason: string): void {
    this.#refusal ??= new ApplianceError('CLOSED', `${this.name} is not mirrored any more: ${reason}`);
    this.release();
  }

  async #change(run: (stage: BlockDevice) => Promise<void>): Promise<void> {
    while (this.#gate !== undefined) await this.#gate.promise;
    if (this.#refusal !== undefined) throw this.#refusal;
    const { latency, clock } = this.#options;
    const startedMs = clock.elapsedMs();
    const entry = latency.begin(startedMs);
    this.#running += 1;
    try {
      await run(this.#stage);
    } catch (error) {
      this.#fail(toError(error));
      throw error;
    } finally {
      latency.end(entry, clock.elapsedMs());
      this.#running -= 1;
      if (this.#running === 0) {
        this.#whenIdle?.();
        this.#whenIdle = undefined;
      }
    }
  }

  #fail(error: Error): void {
    if (this.#refusal !== undefined) return;
    this.refuse(error.message);
    this.#options.onFailure(error);
  }
}
