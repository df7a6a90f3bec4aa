// SPDX-License-Identifier: Apache-2.0
import type { PointId } from '../core/ids.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';

/**
 * Who uses which recovery point now: a point in use must not be deleted, and what it holds must not be collected, even
 * when its manifest is gone.
 */
export class PointUse {
  readonly #uses = new Map<symbol, { readonly point: RecoveryPoint; readonly by: string }>();

  /** Registers a use, named for people (`export ab12-vda`); the result ends it, and may be called more than once. */
  begin(point: RecoveryPoint, by: string): () => void {
    const key = Symbol(by);
    this.#uses.set(key, { point, by });
    return () => {
      this.#uses.delete(key);
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
