// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, toError } from '../core/errors.ts';
import { type FileSystem, type OpenFile, storageError } from '../core/file-system.ts';
import { newPackId, type PackId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import { MAX_PACK_BYTES, PACK_ENTRY_BYTES, PACK_HEADER_BYTES } from './format.ts';
import type { ObjectStore } from './object-store.ts';
import { encodePackFooter, encodePackHeader, type PackEntry, packFooterBytes } from './pack-format.ts';

/** The object key of a pack. */
export function packKey(packId: PackId): string {
  return `packs/${packId.slice(0, 2)}/${packId}`;
}

/** A place that was set aside in a pack: frame numbers, and room for the largest frames they may become. */
export interface PackReservation {
  readonly firstFrame: number;
  readonly boundBytes: number;
  readonly count: number;
}

/**
 * Writes one pack: header, frames in any order, footer; then sync, and the name that makes it part of the repository.
 *
 * Invariants: a frame number is handed out once; reserved + written bytes + footer <= MAX_PACK_BYTES; after a failure
 * every call fails with the first cause, and the staged file is garbage that the next start removes.
 */
export class PackWriter {
  readonly packId: PackId = newPackId();
  readonly entries: PackEntry[] = [];
  readonly #store: ObjectStore;
  readonly #stagedPath: string;
  readonly #file: OpenFile;
  #size = PACK_HEADER_BYTES;
  #reservedBytes = 0;
  #nextFrame = 0;
  #openReservations = 0;
  #whenIdle: PromiseWithResolvers<void> | undefined;
  #failure: Error | undefined;

  private constructor(store: ObjectStore, stagedPath: string, file: OpenFile) {
    this.#store = store;
    this.#stagedPath = stagedPath;
    this.#file = file;
  }

  static async create(store: ObjectStore, fileSystem: FileSystem, repositoryId: string): Promise<PackWriter> {
    const stagedPath = store.stagingPath(`pack-${newPackId()}`);
    let file: OpenFile;
    try {
      file = await fileSystem.open(stagedPath, 'create');
    } catch (error) {
      throw storageError(error, 'create', stagedPath);
    }
    const writer = new PackWriter(store, stagedPath, file);
    try {
      await file.write(encodePackHeader(repositoryId, writer.packId), 0);
    } catch (error) {
      await writer.abandon(fileSystem);
      throw storageError(error, 'write', stagedPath);
    }
    return writer;
  }

  get sizeBytes(): number {
    return this.#size;
  }

  /** Sets room aside for `count` frames of at most `boundBytes` together; undefined when the pack is too full. */
  reserve(count: number, boundBytes: number): PackReservation | undefined {
    const footer = packFooterBytes(this.#nextFrame + count);
    if (this.#size + this.#reservedBytes + boundBytes + footer > MAX_PACK_BYTES) return undefined;
    const reservation = { firstFrame: this.#nextFrame, boundBytes, count };
    this.#nextFrame += count;
    this.#reservedBytes += boundBytes;
    this.#openReservations += 1;
    return reservation;
  }

  /** Writes the frames of a reservation, which lie one after another in `frames`. `entries` have offsets relative to it. */
  async append(reservation: PackReservation, frames: Buffer, entries: readonly PackEntry[]): Promise<void> {
    this.#throwIfFailed();
    invariant(entries.length === reservation.count && frames.length <= reservation.boundBytes, 'a reservation is kept');
    const position = this.#size;
    this.#size += frames.length;
    this.#reservedBytes -= reservation.boundBytes;
    try {
      await this.#file.write(frames, position);
      for (const entry of entries) this.entries.push({ ...entry, offset: position + entry.offset });
    } catch (error) {
      throw this.#fail(storageError(error, 'write', this.#stagedPath));
    } finally {
      this.#leave();
    }
  }

  /** Gives a reservation back unused, after its frames could not be made. */
  cancel(reservation: PackReservation): void {
    this.#reservedBytes -= reservation.boundBytes;
    this.#leave();
  }

  /** Settles when no reservation is open. The caller makes no new ones. */
  idle(): Promise<void> {
    if (this.#openReservations === 0) return Promise.resolve();
    this.#whenIdle ??= Promise.withResolvers<void>();
    return this.#whenIdle.promise;
  }

  /** Writes the footer, syncs, and publishes the pack. Settles with its size when it is durable. No reservation may be open. */
  async seal(): Promise<number> {
    this.#throwIfFailed();
    invariant(this.#openReservations === 0, 'a pack is sealed when no frame is on its way');
    this.entries.sort((a, b) => a.offset - b.offset);
    const footer = encodePackFooter(this.packId, this.entries, this.#size);
    try {
      await this.#file.write(footer, this.#size);
      await this.#file.syncData();
    } catch (error) {
      throw this.#fail(storageError(error, 'write', this.#stagedPath));
    } finally {
      await this.#file.close();
    }
    await this.#store.adopt(this.#stagedPath, packKey(this.packId));
    return this.#size + footer.length;
  }

  /** Stops writing; the staged file is removed now if that works, else at the next start. */
  async abandon(fileSystem: FileSystem): Promise<void> {
    this.#fail(new ApplianceError('ABORTED', 'the pack was abandoned'));
    await this.#file.close();
    try {
      await fileSystem.unlink(this.#stagedPath);
    } catch (error) {
      // Left for the next start, which removes what is staged: the pack was never part of the repository.
      this.#fail(toError(error));
    }
  }

  #leave(): void {
    this.#openReservations -= 1;
    if (this.#openReservations === 0) this.#whenIdle?.resolve();
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #fail(error: Error): Error {
    this.#failure ??= error;
    return this.#failure;
  }
}

/** Footer bytes of one more frame; part of what a frame costs. */
export const FOOTER_BYTES_PER_FRAME: number = PACK_ENTRY_BYTES;
