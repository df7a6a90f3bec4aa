// SPDX-License-Identifier: Apache-2.0
import type { Catalog } from '../../catalog/catalog.ts';
import type { MachineId } from '../../core/ids.ts';
import type { CyclePosition } from './cycle-position.ts';
import type { Durability } from './journal-target.ts';
import type { PassedTime, Pause } from './passed-time.ts';
import type { RecordCopies } from './record-copies.ts';

/** A machine under continuous protection, as it is kept through restarts. */
export interface ProtectionRecord {
  readonly machineId: MachineId;
  readonly name: string;
  readonly connect: string;
  /** 0: every write. */
  readonly intervalMs: number;
  readonly durability: Durability;
  /** How long, and how much at most, the journal keeps; the journal's own defaults when they are not said. */
  readonly windowMs?: number;
  readonly windowBytes?: number;
  /** The policy that wants it; left out where the operator began it. */
  readonly policy?: string;
  /** ISO 8601. */
  readonly since: string;
  /** Protection was ended then; the journal stays until what it holds is too old. */
  readonly endedAt?: string;
  /** Since then. */
  readonly ended?: PassedTime;
  /** The operator wants the machine left alone. */
  readonly pause?: Pause;
}

const RECORD_PREFIX = 'protection-';
const POSITION_PREFIX = 'position-';

/** The records of protected machines in the catalog, and the trackers' positions of their last intervals. */
export class ProtectionRecords {
  readonly #catalog: Catalog;
  readonly #copies: RecordCopies | undefined;

  /** Without copies the catalog alone is read and written. */
  constructor(catalog: Catalog, copies?: RecordCopies) {
    this.#catalog = catalog;
    this.#copies = copies;
  }

  async load(): Promise<ProtectionRecord[]> {
    const records = await this.#catalog.records<ProtectionRecord>('session/');
    return [...records].filter(([name]) => name.startsWith(RECORD_PREFIX)).map(([, record]) => record);
  }

  /** Records that only their copies have: the catalog was lost. They are in it again when this settles. */
  async recover(): Promise<ProtectionRecord[]> {
    const known = new Map((await this.load()).map((record) => [record.machineId, record]));
    const copies = (await this.#copies?.load()) ?? [];
    const lost = copies.filter(({ machineId }) => !known.has(machineId));
    for (const record of lost) await this.put(record);
    for (const { machineId } of copies) known.delete(machineId);
    // Of a time before there were copies.
    for (const record of known.values()) await this.#copies?.put(record);
    return lost;
  }

  async put(record: ProtectionRecord): Promise<void> {
    await this.#catalog.putRecord('session/', RECORD_PREFIX + record.machineId, record);
    await this.#copies?.put(record);
  }

  async remove(machineId: MachineId): Promise<void> {
    // First: a copy without a record would be taken for one that was lost.
    await this.#copies?.remove(machineId);
    await this.#catalog.deleteRecord('session/', RECORD_PREFIX + machineId);
    await this.removePosition(machineId);
  }

  /** Undefined also for one of which it is not known what of the journal it belongs to. */
  async position(machineId: MachineId): Promise<CyclePosition | undefined> {
    const found = (await this.#catalog.records<Partial<CyclePosition>>('session/')).get(POSITION_PREFIX + machineId);
    if (found?.journal === undefined || found.tracker === undefined || found.disks === undefined) return undefined;
    return { tracker: found.tracker, disks: found.disks, journal: found.journal };
  }

  async putPosition(machineId: MachineId, { tracker, disks, journal }: CyclePosition): Promise<void> {
    const slim = disks.map(({ name, sizeBytes, identity }) => ({ name, sizeBytes, identity }));
    await this.#catalog.putRecord('session/', POSITION_PREFIX + machineId, { tracker, disks: slim, journal });
  }

  async removePosition(machineId: MachineId): Promise<void> {
    await this.#catalog.deleteRecord('session/', POSITION_PREFIX + machineId);
  }
}
