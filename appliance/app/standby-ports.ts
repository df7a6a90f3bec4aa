// SPDX-License-Identifier: Apache-2.0
import type { StandbyCreateParams, StandbySummary } from '../api/schemas/standbys.ts';
import type { Catalog } from '../catalog/catalog.ts';
import { systemClock } from '../core/clock.ts';
import { selectPoint } from '../protect/point-selector.ts';
import type { ProtectService } from '../protect/protect-service.ts';
import { type JournalOf, selectState } from '../protect/select-state.ts';
import { parseSelector } from '../protect/selector.ts';
import { parseNetworks } from '../recover/standby/spare-definition.ts';
import type { StandbyPorts } from '../recover/standby/standby-parts.ts';
import type { StandbyService } from '../recover/standby/standby-service.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Core } from './core.ts';

/** Standby over this process's protection and catalog. */
export function standbyPorts({
  catalog,
  protect,
  journalOf,
}: {
  readonly catalog: Catalog;
  readonly protect: ProtectService;
  readonly journalOf: JournalOf;
}): StandbyPorts {
  return {
    backup: async ({ machine, originalConnect }, { signal, onProgress, onNotice }) => {
      const { point } = await protect.backup(
        { target: machine.id, name: undefined, connectUri: originalConnect, isFullScanRequested: false },
        { signal, onNotice, onProgress: (phase, done, total) => onProgress({ phase, done, total, unit: 'bytes' }) },
      );
      return point;
    },
    stateOf: async (expression) => {
      const nowMs = systemClock.nowMs();
      return selectState(await catalog.points(), journalOf, parseSelector(expression, nowMs), nowMs);
    },
    pointOf: async (id) => selectPoint(await catalog.points(), { kind: 'id', prefix: id }),
  };
}

/** A spare follows the definition of its machine with every point, also of those that sessions make; one after the other. */
export class SpareFollower implements AsyncDisposable {
  /** Undefined until there are any. */
  standbys: Pick<StandbyService, 'follow'> | undefined;
  readonly #onNotice: (sentence: string) => void;
  #following: Promise<void> = Promise.resolve();

  constructor(onNotice: (sentence: string) => void) {
    this.#onNotice = onNotice;
  }

  follow({ machine, id }: Pick<RecoveryPoint, 'machine' | 'id'>): void {
    this.#following = this.#following.then(async () => {
      const problem = await this.standbys?.follow(machine.id, id);
      if (problem !== undefined) this.#onNotice(problem);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#following;
  }
}

/** See `StandbyService.create`; `originalConnect` is the libvirt URI of the machine itself. */
export function createStandby(
  { standbys }: Pick<Core, 'standbys'>,
  { name: machine, on: connect, network, memory, as }: StandbyCreateParams,
  originalConnect: string,
): Promise<StandbySummary> {
  const wishes = { networks: parseNetworks(network), memoryMiB: memory ?? null, ...(as === undefined ? {} : { as }) };
  return standbys.create({ machine, connect, originalConnect, ...wishes });
}
