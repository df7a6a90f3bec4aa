// SPDX-License-Identifier: Apache-2.0
import type { ErrorCode } from '../../core/error-codes.ts';
import type { DomainStateName, JobKind, LifecycleName } from './constants.ts';

/** A domain as libvirt names it. */
export interface DomainIdentity {
  readonly uuid: string;
  readonly name: string;
}

export interface ListedDomain extends DomainIdentity {
  readonly isActive: boolean;
  readonly isPersistent: boolean;
}

export interface DomainState {
  readonly state: DomainStateName;
  /** virDomain…Reason of that state. */
  readonly reason: number;
}

/** All three in bytes. */
export interface BlockInfo {
  /** What the guest sees. */
  readonly capacityBytes: number;
  /** Occupied on the host. */
  readonly allocationBytes: number;
  /** Length of the container. */
  readonly physicalBytes: number;
}

/** The job that holds the domain (backup, migration, …); `kind: 'none'` when there is none. */
export interface JobInfo {
  readonly kind: JobKind;
  readonly elapsedMs: number;
  readonly fileTotalBytes: number;
  readonly fileProcessedBytes: number;
  readonly fileRemainingBytes: number;
}

export type TypedValue = number | bigint | boolean | string;

/** virDomainGetJobStats: `params` by libvirt's names, e.g. `disk_temp_used`; 64-bit numbers beyond 2^53 as bigint. */
export interface JobStats {
  readonly kind: JobKind;
  /** For example `backup`; `unknown` when libvirt does not tell. */
  readonly operation: string;
  readonly params: Readonly<Record<string, TypedValue>>;
}

export interface BlockJobInfo {
  /** `backup`, `copy`, `pull`, `commit`, `active-commit`, `unknown`. */
  readonly kind: string;
  /** Limit in bytes per second; 0 is none. */
  readonly bandwidthBytes: number;
  readonly currentBytes: number;
  readonly endBytes: number;
}

/** virDomainBlockCopy's typed parameters; what is left out is QEMU's default. */
export interface BlockCopyParams {
  /** Of the background copy, per second. */
  readonly bandwidthBytes?: number;
  /** Of the dirty bitmap: a power of two from 512 to 64 MiB. */
  readonly granularityBytes?: number;
  /** How much is in flight to the target, which QEMU holds in memory. */
  readonly bufferBytes?: number;
}

/** libvirt's version numbers as `[major, minor, release]`. */
export type Version = readonly [number, number, number];

export interface ConnectionVersions {
  /** Of libvirt.so in this process. */
  readonly client: Version;
  /** Of the daemon. */
  readonly library: Version;
  /** Of QEMU. */
  readonly hypervisor: Version;
  /** `QEMU`. */
  readonly type: string;
  readonly hostname: string;
}

export interface CheckpointIdentity {
  readonly name: string;
  readonly parent: string | null;
}

export interface StorageVolume {
  readonly path: string;
  readonly xml: string;
}

export interface StoragePool {
  /** `dir`, `fs`, `netfs`, `logical`, … */
  readonly type: string;
  /** Bytes that new volumes can take. */
  readonly availableBytes: number;
  /** The directory of its volumes, where it has one. */
  readonly path: string | null;
}

export interface Screenshot {
  readonly mimeType: string;
  readonly bytes: Uint8Array;
}

/** What can be asked of a call worker: one entry per operation, arguments and result are structured-cloneable. */
export interface Operations {
  versions(): ConnectionVersions;
  capabilities(): string;
  isAlive(): boolean;
  listDomains(args: { readonly flags: number }): ListedDomain[];
  lookup(args: { readonly uuid?: string; readonly name?: string }): DomainIdentity;
  define(args: { readonly xml: string; readonly flags: number }): DomainIdentity;
  createTransient(args: { readonly xml: string; readonly flags: number }): DomainIdentity;
  /** Names of the active networks. */
  activeNetworks(): string[];
  storageVolume(args: { readonly pool: string; readonly volume: string }): StorageVolume;
  storagePool(args: { readonly pool: string }): StoragePool;
  createVolume(args: { readonly pool: string; readonly xml: string }): StorageVolume;
  deleteVolume(args: { readonly pool: string; readonly volume: string }): void;

  domainXml(args: { readonly uuid: string; readonly flags: number }): string;
  domainState(args: { readonly uuid: string }): DomainState;
  isPersistent(args: { readonly uuid: string }): boolean;
  undefine(args: { readonly uuid: string; readonly flags: number }): void;
  start(args: { readonly uuid: string; readonly flags: number }): void;
  destroy(args: { readonly uuid: string; readonly flags: number }): void;
  shutdown(args: { readonly uuid: string; readonly flags: number }): void;
  suspend(args: { readonly uuid: string }): void;
  resume(args: { readonly uuid: string }): void;
  autostart(args: { readonly uuid: string }): boolean;
  setAutostart(args: { readonly uuid: string; readonly isOn: boolean }): void;
  removeMetadata(args: { readonly uuid: string; readonly namespace: string; readonly flags: number }): void;
  rename(args: { readonly uuid: string; readonly name: string }): void;
  changeDevice(args: {
    readonly uuid: string;
    readonly change: 'attach' | 'update' | 'detach';
    readonly xml: string;
    readonly flags: number;
  }): void;
  screenshot(args: { readonly uuid: string }): Screenshot;

  blockInfo(args: { readonly uuid: string; readonly disk: string }): BlockInfo;
  blockResize(args: { readonly uuid: string; readonly disk: string; readonly sizeBytes: number }): void;
  blockJobInfo(args: { readonly uuid: string; readonly disk: string }): BlockJobInfo | null;
  blockCopy(args: {
    readonly uuid: string;
    readonly disk: string;
    readonly destinationXml: string;
    readonly params: BlockCopyParams;
    readonly flags: number;
  }): void;
  blockJobAbort(args: { readonly uuid: string; readonly disk: string; readonly flags: number }): void;
  backupBegin(args: {
    readonly uuid: string;
    readonly backupXml: string;
    readonly checkpointXml: string | null;
    readonly flags: number;
  }): void;
  backupXml(args: { readonly uuid: string }): string;
  jobInfo(args: { readonly uuid: string }): JobInfo;
  jobStats(args: { readonly uuid: string; readonly flags: number }): JobStats;
  abortJob(args: { readonly uuid: string }): void;

  listCheckpoints(args: { readonly uuid: string; readonly flags: number }): CheckpointIdentity[];
  lookupCheckpoint(args: { readonly uuid: string; readonly name: string }): CheckpointIdentity;
  checkpointXml(args: { readonly uuid: string; readonly name: string; readonly flags: number }): string;
  createCheckpoint(args: { readonly uuid: string; readonly xml: string; readonly flags: number }): CheckpointIdentity;
  deleteCheckpoint(args: { readonly uuid: string; readonly name: string; readonly flags: number }): void;

  setAgentTimeout(args: { readonly uuid: string; readonly seconds: number }): void;
  fsFreeze(args: { readonly uuid: string; readonly timeoutSeconds: number }): number;
  fsThaw(args: { readonly uuid: string; readonly timeoutSeconds: number }): number;
  agentCommand(args: { readonly uuid: string; readonly command: string; readonly timeoutSeconds: number }): string;
  monitorCommand(args: { readonly uuid: string; readonly command: string }): string;
}

export type OperationName = keyof Operations;
export type OperationArgs<K extends OperationName> =
  Parameters<Operations[K]> extends [infer A] ? A : Record<string, never>;
export type OperationResult<K extends OperationName> = ReturnType<Operations[K]>;

/** An `ApplianceError` on its way between threads. */
export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
  readonly hint: string;
}

/** What a call worker gets when it starts. */
export interface CallWorkerData {
  readonly uri: string;
  readonly connectionId: number;
  readonly keepAlive: { readonly intervalSeconds: number; readonly count: number };
  readonly callbacks: EventCallbacks;
}

/** Addresses of the event worker's callbacks; libvirt calls them on that worker's thread. */
export interface EventCallbacks {
  readonly lifecycle: bigint;
  readonly reboot: bigint;
  readonly ioError: bigint;
  readonly blockJob: bigint;
  readonly agent: bigint;
  readonly jobCompleted: bigint;
  readonly deviceAdded: bigint;
  readonly deviceRemoved: bigint;
  readonly metadataChange: bigint;
  readonly migrationIteration: bigint;
  readonly closed: bigint;
}

export type CallRequest =
  | { readonly kind: 'call'; readonly id: number; readonly operation: OperationName; readonly args: unknown }
  | { readonly kind: 'close' };

export type CallReply =
  | { readonly kind: 'opened' }
  | { readonly kind: 'open-failed'; readonly error: WireError }
  | { readonly kind: 'result'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: WireError }
  | { readonly kind: 'closed' };

/** What a connection's `events` emits, by name. */
export interface LibvirtEvents {
  lifecycle: [event: LifecycleEvent];
  reboot: [event: DomainIdentity];
  /** A guest request failed on the host, e.g. ENOSPC; `action` is `none`, `pause` or `report`. */
  'io-error': [event: IoErrorEvent];
  'block-job': [event: BlockJobEvent];
  agent: [event: AgentEvent];
  'job-completed': [event: JobCompletedEvent];
  'device-added': [event: DeviceEvent];
  /** The guest has let go of it. */
  'device-removed': [event: DeviceEvent];
  'metadata-changed': [event: MetadataEvent];
  /** A migration away has begun its n-th round over the memory. */
  'migration-iteration': [event: MigrationEvent];
  /** The connection ended; no further event and no further call will come through. */
  closed: [event: { readonly reason: string }];
}

export interface LifecycleEvent extends DomainIdentity {
  readonly event: LifecycleName;
  /** For example `shutdown` or `destroyed` for `stopped`; `unknown` when libvirt knows more than we do. */
  readonly detail: string;
}

export interface IoErrorEvent extends DomainIdentity {
  readonly sourcePath: string;
  readonly deviceAlias: string;
  readonly action: 'none' | 'pause' | 'report' | 'unknown';
  readonly reason: string;
}

export interface BlockJobEvent extends DomainIdentity {
  /** Target name, e.g. `vda`. */
  readonly disk: string;
  readonly kind: string;
  readonly status: string;
}

export interface AgentEvent extends DomainIdentity {
  readonly isConnected: boolean;
}

export interface JobCompletedEvent extends DomainIdentity {
  readonly operation: string;
  readonly params: Readonly<Record<string, TypedValue>>;
}

export interface DeviceEvent extends DomainIdentity {
  /** Of the live XML, e.g. `virtio-disk1`. */
  readonly deviceAlias: string;
}

export interface MetadataEvent extends DomainIdentity {
  readonly kind: string;
  /** Of an `element`. */
  readonly namespace: string;
}

export interface MigrationEvent extends DomainIdentity {
  readonly iteration: number;
}

export type EventMessage =
  | { readonly kind: 'ready'; readonly callbacks: EventCallbacks }
  | { readonly kind: 'failed'; readonly error: WireError }
  | {
      [K in keyof LibvirtEvents]: {
        readonly kind: 'event';
        readonly connectionId: number;
        readonly name: K;
        readonly event: LibvirtEvents[K][0];
      };
    }[keyof LibvirtEvents];
