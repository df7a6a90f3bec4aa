// SPDX-License-Identifier: Apache-2.0

/** An object's name and length. */
export interface ObjectEntry {
  readonly key: string;
  readonly sizeBytes: number;
}

/**
 * The port to what keeps a repository's files: a dumb store of immutable objects. Keys are relative paths of lower-case
 * letters, digits, `-`, `.` and `/`. An object appears whole and durable or not at all; it is never changed.
 */
export interface ObjectStore {
  /** Stores a small object; settles when it is durable. @throws ApplianceError OBJECT_EXISTS, NO_SPACE, IO_FAILED */
  put(key: string, bytes: Buffer): Promise<void>;
  /** Replaces or creates an object atomically: for the few that change (the repository's configuration). */
  replace(key: string, bytes: Buffer): Promise<void>;
  /** A local path, beside the store, at which a large object can be written before `adopt`. */
  stagingPath(name: string): string;
  /** Makes a complete and synced staged file the object `key`; durable when settled. @throws ApplianceError OBJECT_EXISTS */
  adopt(stagedPath: string, key: string): Promise<void>;
  /** A whole object. @throws ApplianceError OBJECT_NOT_FOUND, IO_FAILED */
  get(key: string): Promise<Buffer>;
  /** `length` bytes from `offset`. @throws ApplianceError OBJECT_NOT_FOUND, IO_FAILED, REPOSITORY_CORRUPT when it is shorter */
  getRange(key: string, offset: number, length: number): Promise<Buffer>;
  /** Every object whose key begins with `prefix` (a folder, with its slash), in no order. Any failure fails the whole list. */
  list(prefix: string): Promise<ObjectEntry[]>;
  /** Removes an object; one that is not there is no error. */
  delete(key: string): Promise<void>;
  /** A local file that has the object's bytes, for readers in other threads. */
  localPath(key: string): string;
  /** Removes staged files that no process is writing any more. The caller holds the repository's lock. */
  removeStaged(): Promise<number>;
}
