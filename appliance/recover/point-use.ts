// SPDX-License-Identifier: Apache-2.0
import type { PointId } from '../core/ids.ts';
import { type RecoveryPoint, rootsOf } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';

/**
 * Who uses which recovery point now: a point in use must not be deleted, and what it holds must not be collected, even
 * when its manifest is gone.
 */
export class PointUse {
  readonly #repository: Pick<Repository, 'hold'>;
  readonly #uses = new Map<symbol, { readonly point: RecoveryPoint; readonly by: string }>();

  constructor(repository: Pick<Repository, 'hold'>) {
    this.#repository = repository;
  }

  /** Registers a use, named for people (`export ab12-vda`); the result ends it, and may be called more than once. */
  begin(point: RecoveryPoint, by: string): () => void {
    const key = Symbol(by);
    const hold = this.#repository.hold(rootsOf(point).maps);
    this.#uses.set(key, { point, by });
    return () => {
      if (this.#uses.delete(key)) hold[Symbol.dispose]();
    };
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
