// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../../../appliance/block/block-device.ts';
import { memoryDevice } from '../../../appliance/block/memory-device.ts';
import { systemClock } from '../../../appliance/core/clock.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import type { CyclePosition } from '../../../appliance/protect/continuous/cycle-position.ts';
import type { MirrorTarget } from '../../../appliance/protect/continuous/mirror-target.ts';
import type {
  CycleWish,
  IntervalCycle,
  MachineFacts,
  MachineWatch,
  Mirror,
  MirrorLine,
  MirrorLines,
  SessionDisk,
  SessionJournal,
  SessionMoment,
  SessionStorage,
} from '../../../appliance/protect/continuous/ports.ts';
import type { KnownContent } from '../../../appliance/protect/continuous/seeding-target.ts';
import type { RecoveryPoint } from '../../../appliance/repository/manifest.ts';

export const MIB: number = 1024 * 1024;

export function disk(name: string, change: Partial<SessionDisk> = {}): SessionDisk {
  return { name, sizeBytes: MIB, identity: { source: `file:/${name}` }, ...change };
}

/** A machine whose guest writes to all of its disks while it has mirrors, and notices if one ever fails it. */
export class FakeMachine implements MachineWatch, MirrorLines {
  disks: SessionDisk[] = [disk('vda'), disk('vdb')];
  power: MachineFacts['power'] = 'running';
  reason = 'the machine is shut off';
  isReachable = true;
  /** The hypervisor answers when it settles. */
  delay: Promise<void> | undefined;
  /** A mirror that begins is complete at once. */
  isInstant = true;
  /** Refuses mirrors, as libvirt does while another job runs. */
  refusal: string | undefined;
  readonly mirrors: FakeMirror[] = [];
  readonly #listeners = new Set<(what: string) => void>();
  openLines = 0;
  cuts = 0;
  onLost: (disk: string) => void = () => undefined;
  targets: readonly MirrorTarget[] = [];

  async facts(): Promise<MachineFacts> {
    await this.delay;
    if (!this.isReachable) throw new ApplianceError('LIBVIRT_CONNECTION_LOST', 'libvirtd is gone');
    return { power: this.power, reason: this.reason, disks: [...this.disks] };
  }

  onChange(listener: (what: string) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  changed(what: string): void {
    for (const listener of this.#listeners) listener(what);
  }

  open(targets: readonly MirrorTarget[], onLost: (disk: string) => void): Promise<MirrorLine> {
    this.targets = targets;
    this.openLines += 1;
    this.onLost = onLost;
    return Promise.resolve({
      start: (which: SessionDisk): Promise<Mirror> => {
        if (this.refusal !== undefined) return Promise.reject(new ApplianceError('DOMAIN_BUSY', this.refusal));
        const mirror = new FakeMirror(which.name, this.isInstant ? 'ready' : 'copying');
        this.mirrors.push(mirror);
        return Promise.resolve(mirror);
      },
      cut: (): void => {
        this.cuts += 1;
      },
      [Symbol.asyncDispose]: (): Promise<void> => {
        this.openLines -= 1;
        return Promise.resolve();
      },
    });
  }

  endLeftovers(): Promise<void> {
    return Promise.resolve();
  }

  /** Mirrors that have begun and were not ended. */
  get running(): FakeMirror[] {
    return this.mirrors.filter(({ state }) => state !== 'ended');
  }

  /** The guest writes: its own disk first, then the target, whose failure it does not see. */
  async guestWrites(name: string, text: string): Promise<void> {
    const target = this.targets.find((candidate) => candidate.name === name);
    await target?.device.write(0, Buffer.from(text)).catch(() => undefined);
  }

  /** What happens to mirrors when the machine stops. */
  shutDown(reason: string = 'the machine is shut off'): void {
    this.power = 'off';
    this.reason = reason;
    for (const mirror of this.running) mirror.move('ended', 'the job is gone');
    this.changed('stopped');
  }

  start(): void {
    this.power = 'running';
    this.changed('started');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

export class FakeMirror implements Mirror {
  readonly disk: string;
  state: Mirror['state'];
  reason = '';
  wasEndedByUs = false;
  wasTaken = false;
  seenMs = 0;
  readonly #listeners = new Set<() => void>();

  constructor(name: string, state: Mirror['state']) {
    this.disk = name;
    this.state = state;
  }

  onState(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  move(state: Mirror['state'], reason = ''): void {
    this.state = state;
    this.reason = reason;
    for (const listener of this.#listeners) listener();
  }

  end(): Promise<void> {
    this.wasEndedByUs = this.state !== 'ended';
    this.state = 'ended';
    return Promise.resolve();
  }
}

/** A journal as a list of lines. */
export class FakeJournal implements SessionJournal {
  readonly lines: string[] = [];
  readonly events: string[] = [];
  lastSequence = 0;
  durableSequence = 0;
  sizeBytes = 0;
  failure: ApplianceError | undefined;
  delayMs = 0;

  get newest(): SessionMoment {
    return { sequence: this.lastSequence, timeUs: Math.floor(systemClock.nowMs() * 1000) };
  }

  async append({ disk: number, data }: { disk: number; offset: number; data: Buffer }): Promise<SessionMoment> {
    const line = `${number}:${data.toString()}`;
    if (this.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.delayMs));
    return this.#add(line);
  }

  appendZero({ disk: number }: { disk: number }): Promise<SessionMoment> {
    return Promise.resolve(this.#add(`${number}:zero`));
  }

  flush(): Promise<void> {
    this.durableSequence = this.lastSequence;
    return Promise.resolve();
  }

  beginStretch(kind: string): Promise<SessionMoment> {
    return this.#event(`begin ${kind}`);
  }

  async endStretch(reason: string, at?: SessionMoment): Promise<SessionMoment> {
    const here = await this.#event(`end: ${reason}${at === undefined ? '' : ` at ${at.sequence}`}`);
    return at ?? here;
  }

  markMoment(_timeUs?: number): Promise<SessionMoment> {
    return this.#event('moment');
  }

  bookmark(name: string, consistency: string): Promise<SessionMoment> {
    return this.#event(`bookmark ${name}: ${consistency}`);
  }

  #event(text: string): Promise<SessionMoment> {
    this.events.push(text);
    return Promise.resolve(this.#add(text));
  }

  #add(line: string): SessionMoment {
    if (this.failure !== undefined) throw this.failure;
    this.lines.push(line);
    this.lastSequence += 1;
    this.sizeBytes += 100;
    return { sequence: this.lastSequence, timeUs: Math.floor(systemClock.nowMs() * 1000) };
  }
}

export class FakeStorage implements SessionStorage {
  base: readonly SessionDisk[] | undefined;
  readonly folds: { readonly sequence: number; readonly reason: string }[] = [];
  basesMade = 0;
  cycles = 0;
  catchUps = 0;
  /** Why there is no account to catch up from. */
  catchUpFailure: Error | undefined = new ApplianceError('TRACKER_FAILED', 'the checkpoint is gone');
  readonly adopted: string[] = [];
  releases = 0;
  wait: (reason: string) => void = () => undefined;
  positions = 0;
  failure: Error | undefined;
  /** A fold ends when it settles. */
  delay: Promise<void> | undefined;
  readonly #volumes = new Map<string, BlockDevice>();
  readonly #numbers = new Map<string, number>();

  hasBase(disks: readonly SessionDisk[]): Promise<boolean> {
    return Promise.resolve(JSON.stringify(disks) === JSON.stringify(this.base));
  }

  makeBase(disks: readonly SessionDisk[]): Promise<RecoveryPoint> {
    if (this.failure !== undefined) return Promise.reject(this.failure);
    this.base = disks;
    this.basesMade += 1;
    return Promise.resolve({} as RecoveryPoint);
  }

  logDiskOf(name: string): number {
    const number = this.#numbers.get(name) ?? this.#numbers.size;
    this.#numbers.set(name, number);
    return number;
  }

  volume(name: string): BlockDevice {
    const volume = this.#volumes.get(name) ?? memoryDevice({ sizeBytes: MIB });
    this.#volumes.set(name, volume);
    return volume;
  }

  known(): KnownContent {
    return { chunkBytes: 65_536, holds: () => Promise.resolve(false) };
  }

  async fold(upTo: SessionMoment, reason: string): Promise<RecoveryPoint | undefined> {
    if (this.failure !== undefined) throw this.failure;
    this.folds.push({ sequence: upTo.sequence, reason });
    await this.delay;
    return {} as RecoveryPoint;
  }

  cycle(_disks: readonly SessionDisk[], wish: CycleWish): Promise<IntervalCycle> {
    const isCatchUp = wish.kind === 'catch-up';
    const failure = isCatchUp ? this.catchUpFailure : this.failure;
    if (failure !== undefined) return Promise.reject(failure);
    if (isCatchUp) this.catchUps += 1;
    this.cycles += 1;
    return Promise.resolve({
      changedBytes: 4096,
      takenAtMs: systemClock.nowMs(),
      commit: () => Promise.resolve(),
      abandon: () => Promise.resolve(),
    });
  }

  newPosition(): Promise<CyclePosition | undefined> {
    this.positions += 1;
    const tracker = { checkpoint: `p${this.positions}` };
    return Promise.resolve({ tracker, disks: [], journal: { logId: 'log', sequence: this.positions } });
  }

  adoptPosition(position: CyclePosition, newer: CyclePosition): Promise<void> {
    this.adopted.push(`${position.tracker['checkpoint']} before ${newer.tracker['checkpoint']}`);
    return Promise.resolve();
  }

  releaseMachine(): Promise<void> {
    this.releases += 1;
    return Promise.resolve();
  }

  onWait(listener: (reason: string) => void): void {
    this.wait = listener;
  }
}
