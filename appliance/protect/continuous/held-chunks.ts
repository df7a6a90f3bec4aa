// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, keyAt, ZERO_KEY } from '../../core/content-id.ts';
import { contentId } from '../../repository/keys.ts';
import type { Repository } from '../../repository/repository.ts';
import { MapReader } from '../../volume/map-reader.ts';
import type { WriteLayer } from '../../volume/write-layer.ts';
import type { KnownContent } from './seeding-target.ts';

export interface HeldDisk {
  readonly root: ContentKey;
  /** Number of the disk in the layer. */
  readonly disk: number;
}

/**
 * Whether a disk, a map with a layer on top, holds a content, told by the ids in the map: nothing of the content is read. What
 * is not known that way is not held, as far as this goes.
 */
export class HeldChunks implements KnownContent {
  readonly chunkBytes: number;
  readonly #repository: Repository;
  readonly #layer: WriteLayer;
  readonly #disk: number;
  readonly #map: MapReader;

  constructor(repository: Repository, layer: WriteLayer, { root, disk }: HeldDisk) {
    this.#repository = repository;
    this.chunkBytes = repository.chunkBytes;
    this.#layer = layer;
    this.#disk = disk;
    this.#map = new MapReader(root, repository.reader);
  }

  /** True when the disk reads just so there. Errors as `MapReader`. */
  async holds(offset: number, data: Buffer): Promise<boolean> {
    const { chunkBytes, keys } = this.#repository;
    if (offset % chunkBytes !== 0 || data.length !== chunkBytes) return false;
    const place = { disk: this.#disk, offset, length: chunkBytes };
    if (this.#layer.slices(place).some(({ value }) => value !== undefined)) return false;
    const key = await this.#map.chunkKey(offset / chunkBytes);
    if (key === ZERO_KEY) return data.every((byte) => byte === 0);
    return key === keyAt(contentId(keys.chunkId, data));
  }
}
