// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../../block/block-device.ts';
import type { Consistency, RecoveryPoint } from '../../repository/manifest.ts';
import type { WriteSink } from '../../volume/write-layer.ts';
import type { CyclePosition } from './cycle-position.ts';
import type { MirrorTarget } from './mirror-target.ts';
import type { KnownContent } from './seeding-target.ts';

/** A disk of the machine that can be protected. */
export interface SessionDisk {
  /** The target name on the machine, unique in it. */
  readonly name: string;
  readonly sizeBytes: number;
  /** What recognises the same disk again; plain strings that are compared. */
  readonly identity: Readonly<Record<string, string>>;
}

/** What the hypervisor says of the machine now. */
export interface MachineFacts {
  /** `off`: shut off, crashed, migrated away or undefined; `reason` says which. */
  readonly power: 'running' | 'off';
  readonly reason: string;
  readonly disks: readonly SessionDisk[];
}

export interface MachineWatch extends AsyncDisposable {
  /** @throws ApplianceError when the hypervisor cannot be asked */
  facts(): Promise<MachineFacts>;
  /** Calls when the facts may have changed (events of the machine, a connection that was lost). */
  onChange(listener: (what: string) => void): Disposable;
}

/** The copy of one running disk to its target. */
export interface Mirror {
  /** `ready`: the target has everything, and every write of the guest goes there before the guest sees it complete. */
  readonly state: 'copying' | 'ready' | 'ended';
  /** Why it ended. */
  readonly reason: string;
  /** Somebody else ended it, while the machine runs on. */
  readonly wasTaken: boolean;
  /** Elapsed time of the last moment at which it was known to be there and whole. */
  readonly seenMs: number;
  onState(listener: () => void): Disposable;
  /** Ends it without changing the machine; the guest goes on. Idempotent. */
  end(): Promise<void>;
}

/** The targets of a session, offered to its hypervisor. */
export interface MirrorLine extends AsyncDisposable {
  start(disk: SessionDisk): Promise<Mirror>;
  /** Ends all connections at once: whatever waits for them at the hypervisor fails, and the guest goes on. */
  cut(): void;
}

export interface MirrorLines {
  /** Offers the targets. `onLost` is called at once when a mirror's connection ends. */
  open(targets: readonly MirrorTarget[], onLost: (disk: string) => void): Promise<MirrorLine>;
  /** Ends the mirrors that an earlier process left: nothing else can be done with their disks. */
  endLeftovers(): Promise<unknown>;
}

/** A moment of a journal. */
export interface SessionMoment {
  readonly sequence: number;
  readonly timeUs: number;
}

/** What a session does with the machine's journal. */
export interface SessionJournal extends WriteSink {
  readonly lastSequence: number;
  readonly durableSequence: number;
  readonly sizeBytes: number;
  /** The newest state between whose records none is missing. */
  readonly newest: SessionMoment;
  beginStretch(kind: 'writes' | 'interval'): Promise<SessionMoment>;
  endStretch(reason: string, at?: SessionMoment): Promise<SessionMoment>;
  markMoment(timeUs?: number): Promise<SessionMoment>;
  /** Names the newest state; durable when it settles. */
  bookmark(name: string, consistency: Consistency): Promise<SessionMoment>;
}

/** Where an interval's changes were read from, once they are in the journal. */
export interface IntervalCycle {
  /** Bytes that the hypervisor called changed. */
  readonly changedBytes: number;
  /** The moment that was read, ms since the epoch. */
  readonly takenAtMs: number;
  /** The position becomes the base of the next cycle; after the journal was flushed. */
  commit(): Promise<void>;
  /** Gives the position up, when it was not committed. */
  abandon(): Promise<void>;
}

/** `interval`: everything is read where the tracker's account cannot be used. */
export interface CycleWish {
  readonly kind: 'interval' | 'catch-up';
  /** Nobody looked at the machine since the last one. */
  readonly isAfterBreak: boolean;
}

/**
 * The machine's recovery points as a session needs them: the base of its volume, and folding. At any time one point is
 * the base; it is held from removal.
 */
export interface SessionStorage {
  /** True when the base is there and has just these disks. */
  hasBase(disks: readonly SessionDisk[]): Promise<boolean>;
  /** Makes a recovery point the ordinary way, which becomes the base. Nothing is appended to the journal meanwhile. */
  makeBase(disks: readonly SessionDisk[], signal: AbortSignal): Promise<RecoveryPoint>;
  /** The number of a disk of the base in the journal. */
  logDiskOf(disk: string): number;
  /** A disk as it is now: the base with the journal on top. The journal's, not to be closed. */
  volume(disk: string): BlockDevice;
  /** What of it can be told without reading it, at any time. */
  known(disk: string): KnownContent;
  /** Makes a recovery point of the state at `upTo`, which becomes the base. Undefined when there is nothing to fold. */
  fold(upTo: SessionMoment, reason: string, signal: AbortSignal): Promise<RecoveryPoint | undefined>;
  /**
   * Reads what changed since the last position into the volumes. As a catch-up, with nothing but what the hypervisor kept
   * account of: @throws ApplianceError TRACKER_FAILED with the reason when that cannot be trusted
   */
  cycle(disks: readonly SessionDisk[], wish: CycleWish, signal: AbortSignal): Promise<IntervalCycle>;
  /** A new position, at a moment from which on every write comes to the journal; undefined where disks cannot have one. */
  newPosition(): Promise<CyclePosition | undefined>;
  /** Makes a position that of the next cycle. Of the older ones nothing stays; `newer` does. */
  adoptPosition(position: CyclePosition, newer: CyclePosition): Promise<void>;
  /**
   * Ends what the appliance itself left running on the machine, and waits for it.
   * @throws ApplianceError DOMAIN_BUSY when somebody else holds the machine
   */
  releaseMachine(signal: AbortSignal): Promise<void>;
  /** The one listener that hears why something takes long. */
  onWait(listener: (reason: string) => void): void;
}
