// SPDX-License-Identifier: Apache-2.0

/** Numbers of libvirt's public headers (libvirt/libvirt-domain.h, libvirt-domain-checkpoint.h, virterror.h), by their own names. */

export const DOMAIN_XML = { secure: 1, inactive: 2, updateCpu: 4, migratable: 8 } as const;
export const UNDEFINE = {
  managedSave: 1,
  snapshotsMetadata: 2,
  nvram: 4,
  keepNvram: 8,
  checkpointsMetadata: 16,
  tpm: 32,
  keepTpm: 64,
} as const;
export const START = { paused: 1 } as const;
export const DEFINE = { validate: 1 } as const;
export const DEVICE_AFFECT = { current: 0, live: 1, config: 2 } as const;
export const BACKUP_BEGIN = { reuseExternal: 1 } as const;
/** virDomainBlockCopyFlags. */
export const BLOCK_COPY = { shallow: 1, reuseExternal: 2, transientJob: 4, synchronousWrites: 8 } as const;
/** virDomainBlockJobAbortFlags. */
export const BLOCK_JOB_ABORT = { async: 1, pivot: 2 } as const;
/** virDomainBlockJobInfoFlags: the bandwidth is in bytes per second. */
export const BLOCK_JOB_INFO = { bandwidthBytes: 1 } as const;
export const JOB_STATS = { completed: 1, keepCompleted: 2 } as const;
export const CHECKPOINT_CREATE = { redefine: 1, quiesce: 2, redefineValidate: 4 } as const;
export const CHECKPOINT_XML = { secure: 1, noDomain: 2, size: 4 } as const;
export const CHECKPOINT_LIST = { roots: 1, topological: 2 } as const;
export const CHECKPOINT_DELETE = { children: 1, metadataOnly: 2, childrenOnly: 4 } as const;
/** virDomainAgentResponseTimeoutValues; any other number is a limit in seconds. */
export const AGENT_TIMEOUT = { block: -2, libvirtDefault: -1, noWait: 0 } as const;

/** virErrorNumber, those that decide something here. */
export const VIR_ERR = {
  noSupport: 3,
  unknownHost: 4,
  noConnect: 5,
  invalidConn: 6,
  internalError: 1,
  xmlError: 27,
  domainExists: 28,
  xmlDetail: 35,
  rpc: 39,
  systemError: 38,
  noDomain: 42,
  authFailed: 45,
  noStoragePool: 49,
  noStorageVolume: 50,
  operationInvalid: 55,
  configUnsupported: 67,
  operationTimeout: 68,
  invalidArgument: 8,
  operationFailed: 9,
  argumentUnsupported: 74,
  authCancelled: 79,
  blockCopyActive: 83,
  operationUnsupported: 84,
  agentUnresponsive: 86,
  resourceBusy: 87,
  accessDenied: 88,
  xmlInvalidSchema: 92,
  authUnavailable: 94,
  storageVolumeExists: 90,
  agentUnsynced: 97,
  noCheckpoint: 103,
  noBackup: 104,
  checkpointInconsistent: 109,
  agentCommandTimeout: 111,
} as const;

/** virDomainEventID of the events that are delivered. */
export const EVENT_ID = {
  lifecycle: 0,
  reboot: 1,
  ioError: 6,
  deviceRemoved: 15,
  blockJob: 16,
  agent: 18,
  deviceAdded: 19,
  migrationIteration: 20,
  jobCompleted: 21,
  metadataChange: 23,
} as const;

export type DomainStateName =
  | 'no-state'
  | 'running'
  | 'blocked'
  | 'paused'
  | 'shutting-down'
  | 'shut-off'
  | 'crashed'
  | 'pm-suspended';

/** virDomainState, by number. */
export const DOMAIN_STATES: readonly DomainStateName[] = [
  'no-state',
  'running',
  'blocked',
  'paused',
  'shutting-down',
  'shut-off',
  'crashed',
  'pm-suspended',
];

/** virDomainPausedReason 5: the guest was stopped by an I/O error (`werror=stop`), for example a full disk. */
export const PAUSED_IO_ERROR = 5;

export type LifecycleName =
  | 'defined'
  | 'undefined'
  | 'started'
  | 'suspended'
  | 'resumed'
  | 'stopped'
  | 'shutdown'
  | 'pm-suspended'
  | 'crashed';

/** virDomainEventType, by number, with the names of each type's details. */
export const LIFECYCLES: readonly { readonly name: LifecycleName; readonly details: readonly string[] }[] = [
  { name: 'defined', details: ['added', 'updated', 'renamed', 'from-snapshot'] },
  { name: 'undefined', details: ['removed', 'renamed'] },
  { name: 'started', details: ['booted', 'migrated', 'restored', 'from-snapshot', 'wakeup'] },
  {
    name: 'suspended',
    details: [
      'paused',
      'migrated',
      'io-error',
      'watchdog',
      'restored',
      'from-snapshot',
      'api-error',
      'postcopy',
      'postcopy-failed',
    ],
  },
  { name: 'resumed', details: ['unpaused', 'migrated', 'from-snapshot', 'postcopy', 'postcopy-failed'] },
  {
    name: 'stopped',
    details: ['shutdown', 'destroyed', 'crashed', 'migrated', 'saved', 'failed', 'from-snapshot'],
  },
  { name: 'shutdown', details: ['finished', 'guest', 'host'] },
  { name: 'pm-suspended', details: ['memory', 'disk'] },
  { name: 'crashed', details: ['panicked', 'crashloaded'] },
];

export type JobKind = 'none' | 'bounded' | 'unbounded' | 'completed' | 'failed' | 'cancelled';
/** virDomainJobType, by number. */
export const JOB_KINDS: readonly JobKind[] = ['none', 'bounded', 'unbounded', 'completed', 'failed', 'cancelled'];

/** virDomainJobOperation, by number. */
export const JOB_OPERATIONS: readonly string[] = [
  'unknown',
  'start',
  'save',
  'restore',
  'migration-in',
  'migration-out',
  'snapshot',
  'snapshot-revert',
  'dump',
  'backup',
  'snapshot-delete',
];

/** virDomainBlockJobType, by number. */
export const BLOCK_JOB_KINDS: readonly string[] = ['unknown', 'pull', 'copy', 'commit', 'active-commit', 'backup'];
/** virConnectDomainEventBlockJobStatus, by number. */
export const BLOCK_JOB_STATUSES: readonly string[] = ['completed', 'failed', 'cancelled', 'ready'];
/** virDomainMetadataType, by number. */
export const METADATA_KINDS: readonly string[] = ['description', 'title', 'element'];
/** virConnectCloseReason, by number. */
export const CLOSE_REASONS: readonly string[] = ['error', 'eof', 'keepalive', 'client'];
