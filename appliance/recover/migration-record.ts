// SPDX-License-Identifier: Apache-2.0

export type MigrationFormat = 'raw' | 'qcow2';

/** Where the disks go: a directory of this host, or a storage pool of libvirt. */
export type MigrationPlace =
  | { readonly kind: 'directory'; readonly path: string }
  | { readonly kind: 'pool'; readonly name: string };

/** Storage that was made. */
export type MadeTarget = MigrationTarget & { readonly path: string };

/** The new storage of one disk. */
export interface MigrationTarget {
  readonly disk: string;
  readonly format: MigrationFormat;
  readonly sizeBytes: number;
  /** The volume's name in the pool, or the file's in the directory. */
  readonly name: string;
  /** Absolute. Of a volume it is known once it is made. */
  readonly path?: string;
  /** Device and inode of the file that was made for us; nothing else is ever removed. Not known before it is made. */
  readonly inode?: string;
}

/**
 * A migration that has begun, as it stands in the session's record from before anything is made until the session is
 * forgotten. Until the first disk has moved it is taken back after a crash; from then on only finished.
 */
export interface MigrationRecord {
  readonly place: MigrationPlace;
  readonly targets: readonly MigrationTarget[];
  /** The name that the machine shall have. */
  readonly as?: string;
  readonly autostart?: boolean;
  /** Where the variables of its firmware go, when it has any. */
  readonly nvramPath?: string;
}
