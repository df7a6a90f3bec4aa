// SPDX-License-Identifier: Apache-2.0

/** What the demo measured: milliseconds and bytes as the names say; what was not reached is left out. */
export interface Figures {
  acceleration?: 'kvm' | 'tcg';
  diskBytes?: number;
  fileBytes?: number;
  files?: number;
  /** Start of the original from its local disk until its user space answers. */
  originalBootMs?: number;
  firstBackup?: BackupFigures;
  secondBackup?: BackupFigures;
  /** What the guest wrote between the backups, without its file system's own blocks. */
  guestWroteBytes?: number;
  /** From the call of `understudy boot` until the user space of the booted guest answers. */
  bootMs?: number;
  /** From the call of `understudy protect` until every write is kept. */
  protectMs?: number;
  /** What the journal took for what the guest wrote. */
  journalBytes?: number;
  /** When everything was deleted, and the moment that was booted. */
  deletedAt?: string;
  bootedAt?: string;
  restoreMs?: number;
  checkMs?: number;
  logicalBytes?: number;
  uniqueBytes?: number;
  storedBytes?: number;
  totalMs?: number;
}

export interface BackupFigures {
  readonly point: string;
  readonly kind: string;
  readonly consistency: string;
  readonly changedBytes: number;
  readonly readBytes: number;
  readonly newChunkBytes: number;
  readonly storedBytes: number;
  /** As the appliance reports it. */
  readonly backupMs: number;
  /** The whole command, with the start of its process. */
  readonly commandMs: number;
}
