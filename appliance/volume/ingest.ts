// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../block/block-device.ts';
import type { ContentKey } from '../core/content-id.ts';
import { CONTENT_ID_BYTES } from '../core/content-id.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import type { Extent } from '../core/extents.ts';
import type { Slab } from '../repository/arena.ts';
import type { ChunkReader } from '../repository/chunk-reader.ts';
import type { ChunkWriter } from '../repository/chunk-writer.ts';
import { planChunks } from './chunk-plan.ts';
import { type EditedMap, MapEditor } from './map-editor.ts';

/** What an ingest reads, and what it builds on. */
export interface IngestInput {
  /** Shows one consistent moment for the whole run. Its limits are honoured. */
  readonly source: BlockDevice;
  /** What may differ from the base (everything, for a full backup), in order. Zero extents override the base. */
  readonly changes: AsyncIterable<Extent> | Iterable<Extent>;
  /** The map that the changes apply to; ZERO_KEY for none. */
  readonly base: ContentKey;
  readonly reader: ChunkReader;
  readonly writer: ChunkWriter;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: IngestProgress) => void;
}

export interface IngestProgress {
  /** Where on the disk the work is. */
  readonly position: number;
  readonly readBytes: number;
}

export interface IngestResult extends EditedMap {
  readonly readBytes: number;
  /** Bytes of the chunks that the changes covered, read or zero. */
  readonly coveredBytes: number;
}

/** Chunks of one slab: segments of consecutive chunks, one after another. */
interface SlabPlan {
  readonly segments: { first: number; count: number }[];
  count: number;
}

type Step =
  | {
      readonly kind: 'chunks';
      readonly segments: readonly { first: number; count: number }[];
      readonly ids: Promise<Buffer>;
    }
  | { readonly kind: 'zero'; readonly first: number; readonly count: number };

/**
 * Writes the changed chunks of a disk into a new map. Reading, hashing, compressing and writing overlap, bounded by the
 * repository's slabs; the map is edited in the order of the disk. Nothing is visible to anybody before the writer is
 * sealed and a manifest names the root.
 *
 * @throws ApplianceError whatever source or repository fail with; INCOMPLETE_BACKUP when bytes are missing; ABORTED.
 * When it settles, nothing of it runs any more.
 */
export async function ingest(input: IngestInput): Promise<IngestResult> {
  const run = new IngestRun(input);
  return run.execute();
}

class IngestRun {
  readonly #input: IngestInput;
  readonly #editor: MapEditor;
  readonly #running = new Set<Promise<unknown>>();
  #edits: Promise<void> = Promise.resolve();
  #failure: Error | undefined;
  #readBytes = 0;
  #plannedBytes = 0;
  #coveredBytes = 0;

  constructor(input: IngestInput) {
    this.#input = input;
    this.#editor = new MapEditor(input.base, input.reader, input.writer);
  }

  async execute(): Promise<IngestResult> {
    try {
      await this.#schedule();
    } catch (error) {
      this.#fail(toError(error));
    }
    await this.#edits;
    await Promise.allSettled(this.#running);
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#readBytes !== this.#plannedBytes) {
      throw new ApplianceError('INCOMPLETE_BACKUP', `${this.#plannedBytes} bytes were due, ${this.#readBytes} arrived`);
    }
    return { ...(await this.#editor.finish()), readBytes: this.#readBytes, coveredBytes: this.#coveredBytes };
  }

  async #schedule(): Promise<void> {
    const { writer, source, changes } = this.#input;
    let plan: SlabPlan = { segments: [], count: 0 };
    const send = async (): Promise<void> => {
      if (plan.count === 0) return;
      const full = plan;
      plan = { segments: [], count: 0 };
      await this.#readSlab(full);
    };
    for await (const run of planChunks(changes, writer.chunkBytes, source.sizeBytes)) {
      this.#throwIfStopped();
      this.#coveredBytes += this.#bytesOf(run.first, run.count);
      if (run.action === 'zero') {
        await send();
        this.#edit({ kind: 'zero', first: run.first, count: run.count });
        continue;
      }
      for (let chunk = run.first; chunk < run.first + run.count; ) {
        const count = Math.min(run.first + run.count - chunk, writer.chunksPerSlab - plan.count);
        plan.segments.push({ first: chunk, count });
        plan.count += count;
        chunk += count;
        if (plan.count === writer.chunksPerSlab) await send();
      }
    }
    await send();
  }

  /** Waits for a slab (the bound of the work in flight), then lets it be filled and stored behind our back. */
  async #readSlab(plan: SlabPlan): Promise<void> {
    this.#throwIfStopped();
    const slab = await this.#input.writer.acquireSlab(this.#input.signal);
    if (this.#failure !== undefined) {
      this.#input.writer.releaseSlab(slab);
      throw this.#failure;
    }
    const ids = this.#fillAndStore(slab, plan);
    this.#running.add(ids);
    ids.then(
      () => this.#running.delete(ids),
      (error) => {
        this.#running.delete(ids);
        this.#fail(toError(error));
      },
    );
    this.#edit({ kind: 'chunks', segments: plan.segments, ids });
  }

  async #fillAndStore(slab: Slab, plan: SlabPlan): Promise<Buffer> {
    const { writer } = this.#input;
    try {
      let at = 0;
      const reads: Promise<void>[] = [];
      for (const { first, count } of plan.segments) {
        reads.push(this.#readSegment(first, count, slab.buffer.subarray(at, at + count * writer.chunkBytes)));
        at += count * writer.chunkBytes;
      }
      for (const result of await Promise.allSettled(reads)) if (result.status === 'rejected') throw result.reason;
    } catch (error) {
      writer.releaseSlab(slab);
      throw error;
    }
    return writer.putChunks(slab, plan.count);
  }

  async #readSegment(first: number, count: number, into: Buffer): Promise<void> {
    const { source, writer } = this.#input;
    const offset = first * writer.chunkBytes;
    const length = this.#bytesOf(first, count);
    this.#plannedBytes += length;
    into.fill(0, length);
    for (let done = 0; done < length; ) {
      const part = Math.min(length - done, source.limits.maximumBytes);
      await source.read(offset + done, into.subarray(done, done + part));
      done += part;
      this.#readBytes += part;
    }
    this.#input.onProgress?.({ position: offset + length, readBytes: this.#readBytes });
  }

  /** Edits happen one after another, in the order of the disk, whatever the order in which ids arrive. */
  #edit(step: Step): void {
    this.#edits = this.#edits.then(async () => {
      if (this.#failure !== undefined) return;
      try {
        await this.#apply(step);
      } catch (error) {
        this.#fail(toError(error));
      }
    });
  }

  async #apply(step: Step): Promise<void> {
    if (step.kind === 'zero') {
      await this.#editor.setZero(step.first, step.count);
      this.#input.onProgress?.({
        position: (step.first + step.count) * this.#input.writer.chunkBytes,
        readBytes: this.#readBytes,
      });
      return;
    }
    const ids = await step.ids;
    let at = 0;
    for (const { first, count } of step.segments) {
      for (let chunk = first; chunk < first + count; chunk++) {
        await this.#editor.set(chunk, ids, at);
        at += CONTENT_ID_BYTES;
      }
    }
  }

  #bytesOf(first: number, count: number): number {
    const { source, writer } = this.#input;
    return Math.min(count * writer.chunkBytes, source.sizeBytes - first * writer.chunkBytes);
  }

  #throwIfStopped(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#input.signal?.aborted) {
      throw new ApplianceError('ABORTED', 'the backup was interrupted', { cause: this.#input.signal.reason });
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
  }
}
