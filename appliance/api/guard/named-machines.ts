// SPDX-License-Identifier: Apache-2.0
import type { Principal } from '../../access/principal.ts';
import { hasCode } from '../../core/errors.ts';
import type { Appliance, OperationContext } from '../operations.ts';

/** Looks as the appliance itself, to find out what a name means; nothing of it is shown to anybody. */
const LOOKING: Principal = { kind: 'appliance', id: 'guard', name: 'appliance', role: 'viewer', machines: null };

type Looking = Pick<Appliance, 'points' | 'pointShow' | 'booted' | 'machineList' | 'protection' | 'runShow'>;

/** What a parameter names. */
export type Means = 'machine' | 'state' | 'booted' | 'run';

/** Which machines the names in calls and results belong to, by asking the appliance in the same way as the call will. */
export class NamedMachines {
  readonly #appliance: () => Looking;

  constructor(appliance: () => Looking) {
    this.#appliance = appliance;
  }

  /**
   * The ids of all machines that a name could mean: more than one where different parts of the appliance know different
   * machines by it, and then all of them have to be allowed. @throws what looking throws
   */
  named(means: Means, name: string): Promise<readonly string[]> {
    switch (means) {
      case 'state':
        return this.#ofState(name);
      case 'booted':
        return this.#ofBooted(name);
      case 'machine':
        return this.#ofMachine(name);
      case 'run':
        return this.#ofRun(name);
    }
  }

  /** Whether the principal started the run. @throws RUN_NOT_FOUND */
  async isRunOf(id: string, principal: Principal): Promise<boolean> {
    const { startedBy } = await this.#appliance().runShow({ id }, context());
    return startedBy.kind === principal.kind && startedBy.id === principal.id;
  }

  /** Maps a member of a list's items to the machine that it belongs to: itself, or for points the machine of the point. */
  async ofItems(member: string): Promise<(value: unknown) => string | undefined> {
    if (member !== 'point') return (value) => (typeof value === 'string' ? value : undefined);
    const points = await this.#appliance().points({}, context());
    const machines = new Map(points.map(({ id, machineId }) => [id, machineId]));
    return (value) => machines.get(String(value));
  }

  /**
   * The parameters with the state that an expression means now: `web@latest` may be another one when a second person has
   * approved what was asked for. @throws as `pointShow`
   */
  async pinned(params: Readonly<Record<string, unknown>>): Promise<Readonly<Record<string, unknown>>> {
    const { point } = params;
    if (typeof point !== 'string') return params;
    const { point: found, moment } = await this.#appliance().pointShow({ point }, context());
    const exact = moment === null ? found.id : `${found.machine.id}@seq:${moment.sequence}`;
    return { ...params, point: exact };
  }

  async #ofState(point: string): Promise<readonly string[]> {
    const { point: found } = await this.#appliance().pointShow({ point }, context());
    return [found.machine.id];
  }

  async #ofRun(id: string): Promise<readonly string[]> {
    const { machineId } = await this.#appliance().runShow({ id }, context());
    return machineId === null ? [] : [machineId];
  }

  /** The machine that it was booted from, whatever it is called now. */
  async #ofBooted(name: string): Promise<readonly string[]> {
    const booted = await this.#appliance().booted({}, context());
    const found = booted.filter((one) => one.name === name || one.machineId === name.toLowerCase());
    return (await Promise.all(found.map(({ point }) => this.#ofState(point)))).flat();
  }

  async #ofMachine(name: string): Promise<readonly string[]> {
    const appliance = this.#appliance();
    const id = name.toLowerCase();
    const [points, isProtected, listed, booted] = await Promise.all([
      appliance.points({}, context()),
      appliance.protection({}, context()),
      inventory(appliance),
      this.#ofBooted(name),
    ]);
    const named = [
      ...points.filter((one) => one.machine === name || one.machineId === id),
      ...isProtected.filter((one) => one.machine === name || one.machineId === id),
    ].map(({ machineId }) => machineId);
    const inInventory = listed.filter((one) => one.name === name || one.id === id).map((one) => one.id);
    return [...new Set([...named, ...inInventory, ...booted])];
  }
}

/** A hypervisor that is away takes nothing from what is known without it. */
async function inventory(appliance: Looking): Promise<readonly { readonly id: string; readonly name: string }[]> {
  try {
    return await appliance.machineList({}, context());
  } catch (error) {
    if (hasCode(error, 'ABORTED', 'INTERNAL')) throw error;
    return [];
  }
}

function context(): OperationContext {
  return {
    principal: LOOKING,
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onNotice: () => undefined,
  };
}
