// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { PointId } from '../core/ids.ts';
import { type RecoveryPoint, rootsOf } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';

/**
 * Who uses which recovery point now: a point in use must not be deleted, and what it holds must not be collected, even
 * when its manifest is gone.
 */
export class PointUse {
  readonly #repository: Pick<Repository, 'hold' | 'manifests'>;
  readonly #uses = new Map<symbol, { readonly point: RecoveryPoint; readonly by: string }>();

  constructor(repository: Pick<Repository, 'hold' | 'manifests'>) {
    this.#repository = repository;
  }

  /** Registers a use, named for people (`export ab12-vda`); the result ends it, and may be called more than once. */
  begin(point: RecoveryPoint, by: string): () => void {
    const key = Symbol(by);
    const hold = this.#repository.hold(rootsOf(point));
    this.#uses.set(key, { point, by });
    return () => {
      if (this.#uses.delete(key)) hold[Symbol.dispose]();
    };
  }

  /**
   * The same for a point that may have been deleted since it was looked up: a deletion that asks `usedBy` after this finds
   * the use, and one that asked before it has removed the manifest, or is held up by the hold.
   * @throws ApplianceError POINT_NOT_FOUND, IO_FAILED
   */
  async beginListed(point: RecoveryPoint, by: string): Promise<() => void> {
    const end = this.begin(point, by);
    try {
      const isThere = await this.#repository.manifests.has({ machineId: point.machine.id, pointId: point.id });
      if (isThere) return end;
      throw new ApplianceError('POINT_NOT_FOUND', `recovery point ${point.id} has been deleted`);
    } catch (error) {
      end();
      throw error;
    }
  }

  /** Names of what uses the point; empty when nothing does. */
  usedBy(id: PointId): string[] {
    return [...this.#uses.values()].filter(({ point }) => point.id === id).map(({ by }) => by);
  }

  /** Every point in use, each once. */
  heldPoints(): RecoveryPoint[] {
    return [...new Map([...this.#uses.values()].map(({ point }) => [point.id, point])).values()];
  }
}
