// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import { ApplianceError } from '../core/errors.ts';
import { type MachineId, type PointId, parseMachineId, parsePointId } from '../core/ids.ts';
import { decodeManifest, encodeManifest, manifestKey, type RecoveryPoint } from './manifest.ts';
import type { ObjectStore } from './object-store.ts';

const FOLDER = 'points/';
const NAME = /^points\/([0-9a-f-]{36})\/([0-9a-f]{16})\.json$/;

/** Names one manifest without reading it. */
export interface ManifestRef {
  readonly machineId: MachineId;
  readonly pointId: PointId;
}

/** The recovery points of a repository: a point exists exactly while its manifest does. */
export class ManifestStore {
  readonly #store: ObjectStore;
  readonly #key: KeyObject;

  constructor(store: ObjectStore, key: KeyObject) {
    this.#store = store;
    this.#key = key;
  }

  /** Makes the point exist; durable when settled. Everything that it names must be durable before. */
  async put(point: RecoveryPoint): Promise<void> {
    const bytes = encodeManifest(point, this.#key);
    decodeManifest(bytes, this.#key, point.id);
    await this.#store.put(manifestKey(point.machine.id, point.id), bytes);
  }

  /** @throws ApplianceError OBJECT_NOT_FOUND, REPOSITORY_CORRUPT, REPOSITORY_FORMAT */
  async get(ref: ManifestRef): Promise<RecoveryPoint> {
    const key = manifestKey(ref.machineId, ref.pointId);
    const point = decodeManifest(await this.#store.get(key), this.#key, key);
    if (point.id !== ref.pointId || point.machine.id !== ref.machineId) {
      throw new ApplianceError('REPOSITORY_CORRUPT', `the manifest ${key} describes another point`, {
        details: { manifest: key },
      });
    }
    return point;
  }

  /** Every manifest there is. A file that is not one fails the listing: it might be a damaged name. */
  async list(): Promise<ManifestRef[]> {
    const entries = await this.#store.list(FOLDER);
    return entries.map(({ key }) => {
      const match = NAME.exec(key);
      if (match === null) {
        throw new ApplianceError('REPOSITORY_CORRUPT', `${key} does not belong into a repository`, {
          details: { object: key },
          hint: 'Move the file out of the repository; nothing there has such a name.',
        });
      }
      return { machineId: parseMachineId(match[1] ?? ''), pointId: parsePointId(match[2] ?? '') };
    });
  }

  /** Ends a point. Its chunks stay until garbage collection. */
  async delete(ref: ManifestRef): Promise<void> {
    await this.#store.delete(manifestKey(ref.machineId, ref.pointId));
  }
}
