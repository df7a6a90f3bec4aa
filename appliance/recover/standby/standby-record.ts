// SPDX-License-Identifier: Apache-2.0
import type { Catalog } from '../../catalog/catalog.ts';
import { ApplianceError } from '../../core/errors.ts';
import type { MachineId, PointId } from '../../core/ids.ts';
import type { JournalMoment } from '../../volume/recoverable-state.ts';

/**
 * Where a failover or failback is. Each is stored before its first step is taken, so that what a killed process leaves is
 * known:
 *
 *   fencing → fenced → booting → running → returning → returned → (none)
 *
 *   fencing: the original may run or not; its autostart is off, or about to be · fenced: the original is off ·
 *   booting: the state is chosen, the spare is being started · running: the spare runs in the original's place ·
 *   returning: the original's disks are being written, and must not be used · returned: they hold everything
 */
export type TakeoverPhase = 'fencing' | 'fenced' | 'booting' | 'running' | 'returning' | 'returned';

/** A failover that is not over yet. */
export interface Takeover {
  readonly phase: TakeoverPhase;
  readonly startedAt: string;
  /** False when the original could not be reached. */
  readonly isPlanned: boolean;
  /** The original may be pulled the plug of. */
  readonly isForced: boolean;
  /** The moment that was asked for; null for the newest state. */
  readonly at: string | null;
  /** What the original was before; null when it is not known. */
  readonly original: { readonly wasRunning: boolean; readonly autostart: boolean } | null;
  /** What the spare runs from; null until it is chosen. */
  readonly state: { readonly point: PointId; readonly moment: JournalMoment | null } | null;
  /** What the original's images looked like when they held exactly that state (`imageMarks`); null when they never did. */
  readonly marks: string | null;
  /** The point of the original as it was before its disks were written. */
  readonly pointBefore: PointId | null;
}

/** A spare and the machine that it is for. */
export interface Standby {
  /** The spare's: its domain, and later its session. */
  readonly name: string;
  /** The spare's UUID. */
  readonly spareId: string;
  readonly connect: string;
  readonly machine: { readonly id: MachineId; readonly name: string };
  /** Where the original is. */
  readonly originalConnect: string;
  readonly networks: Readonly<Record<string, string>>;
  readonly memoryMiB: number | null;
  readonly createdAt: string;
  /** The point whose definition the spare has, and a hash of what was made of it. */
  readonly definition: { readonly point: PointId; readonly hash: string } | null;
  readonly takeover: Takeover | null;
}

const PREFIX = 'standby-';

/** The spares of a state directory: records `session/standby-<UUID of the machine>` of the catalog. */
export class StandbyStore {
  readonly #catalog: Pick<Catalog, 'records' | 'putRecord' | 'deleteRecord'>;

  constructor(catalog: Pick<Catalog, 'records' | 'putRecord' | 'deleteRecord'>) {
    this.#catalog = catalog;
  }

  /** By name of the machine. */
  async all(): Promise<Standby[]> {
    const records = await this.#catalog.records<Standby>('session/');
    return [...records]
      .filter(([name]) => name.startsWith(PREFIX))
      .map(([, standby]) => standby)
      .sort((a, b) => (a.machine.name < b.machine.name ? -1 : 1));
  }

  /** By name or UUID of the machine, or by name of the spare. @throws ApplianceError STANDBY_NOT_FOUND */
  async get(name: string): Promise<Standby> {
    const all = await this.all();
    const found =
      all.find(({ machine }) => machine.id === name.toLowerCase()) ??
      all.find(({ machine }) => machine.name === name) ??
      all.find((standby) => standby.name === name);
    if (found !== undefined) return found;
    throw new ApplianceError('STANDBY_NOT_FOUND', `there is no standby of ${name}`);
  }

  /** Durable when settled. */
  async put(standby: Standby): Promise<Standby> {
    await this.#catalog.putRecord('session/', PREFIX + standby.machine.id, standby);
    return standby;
  }

  async delete(standby: Standby): Promise<void> {
    await this.#catalog.deleteRecord('session/', PREFIX + standby.machine.id);
  }
}

/** Where it stands, in a sentence. */
export function standing({ machine, name, takeover }: Standby): string {
  switch (takeover?.phase) {
    case undefined:
      return `${name} is ready to take over from ${machine.name}.`;
    case 'fencing':
      return `${machine.name} is being switched off; \`understudy failover ${machine.name}\` goes on, --undo goes back.`;
    case 'fenced':
      return `${machine.name} is off; \`understudy failover ${machine.name}\` goes on, --undo goes back.`;
    case 'booting':
      return `${name} is being started; \`understudy failover ${machine.name}\` goes on, --undo goes back.`;
    case 'running':
      return `${name} runs in place of ${machine.name}; \`understudy failback ${machine.name}\` returns.`;
    case 'returning':
      return `The disks of ${machine.name} are being written: do not start it. \`understudy failback ${machine.name}\` goes on.`;
    case 'returned':
      return `The disks of ${machine.name} hold everything; \`understudy failback ${machine.name}\` completes the return.`;
  }
}
