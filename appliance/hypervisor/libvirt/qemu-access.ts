// SPDX-License-Identifier: Apache-2.0
import { chmod, chown, stat } from 'node:fs/promises';
import { dirname, relative } from 'node:path';
import { grantAccess, grantInherited, MAY, rightsOf } from '../../core/access-list.ts';
import { ApplianceError, systemErrorCode } from '../../core/errors.ts';
import { storageError } from '../../core/file-system.ts';
import type { QemuOwner } from './qemu-owner.ts';

/*
 * What of ours QEMU is let into when it runs as another user (`qemu:///system`): that user alone, through ownership where
 * we may give things away (as root), otherwise through access lists. Nothing is ever opened to everybody: names are no
 * secret, since command lines of processes and definitions of machines can be read by all users of a host.
 */

/** Whether QEMU needs to be let in at all; `undefined` is a session daemon, whose QEMU is ourselves. */
export function isForeign(owner: QemuOwner | undefined): owner is QemuOwner {
  return owner !== undefined && owner.uid !== 0 && owner.uid !== process.getuid?.();
}

/** QEMU may connect to a unix socket of ours (mode 0600). @throws ApplianceError QEMU_ACCESS, IO_FAILED */
export async function letQemuConnect(socketPath: string, owner: QemuOwner | undefined): Promise<void> {
  if (!isForeign(owner)) return;
  if (isRoot()) return await attempt(socketPath, () => chown(socketPath, owner.uid, owner.gid));
  await attempt(socketPath, () => grantAccess(socketPath, { uid: owner.uid, rights: MAY.read + MAY.write }));
}

/**
 * QEMU may add to a file of ours (mode 0600), and we may read it, also after libvirt has given it to QEMU's user.
 * @throws ApplianceError QEMU_ACCESS, IO_FAILED
 */
export async function letQemuAppend(path: string, owner: QemuOwner | undefined): Promise<void> {
  await letQemuConnect(path, owner);
  if (!isForeign(owner) || isRoot()) return;
  await attempt(path, () => grantAccess(path, { uid: process.getuid?.() ?? 0, rights: MAY.read }));
}

/**
 * QEMU may create a socket in a directory of ours (mode 0700), and we may connect to it.
 * @throws ApplianceError QEMU_ACCESS, IO_FAILED
 */
export async function letQemuListen(directory: string, owner: QemuOwner | undefined): Promise<void> {
  if (!isForeign(owner)) return;
  const own = process.getuid?.() ?? 0;
  if (isRoot()) return await attempt(directory, () => chown(directory, owner.uid, owner.gid));
  await attempt(directory, async () => {
    grantInherited(directory, [{ uid: own, rights: MAY.read + MAY.write }]);
    await grantAccess(directory, { uid: owner.uid, rights: MAY.write + MAY.search });
  });
}

export interface ReachRequest {
  /** Who QEMU runs as; undefined for a session daemon. */
  readonly owner: QemuOwner | undefined;
  /** Directories that are ours to open, with everything beneath them. */
  readonly ownDirectories: readonly string[];
  /** Files and sockets that QEMU must reach. */
  readonly paths: readonly string[];
}

/**
 * QEMU finds the way to our files: it may search the directories of ours on the way, and not list them. Directories that
 * are not ours are only looked at.
 * @throws ApplianceError QEMU_ACCESS, with the directory in the way; IO_FAILED
 */
export async function letQemuReach(request: ReachRequest): Promise<void> {
  const { owner, paths } = request;
  if (!isForeign(owner)) return;
  for (const path of paths) {
    for (const directory of ancestors(path)) await letSearch(directory, request, owner);
  }
}

async function letSearch(directory: string, request: ReachRequest, owner: QemuOwner): Promise<void> {
  const { mode, uid, rights } = await look(directory, owner);
  if ((rights & MAY.search) !== 0) return;
  const isOurs = request.ownDirectories.some((own) => isWithin(own, directory));
  if (isOurs && (isRoot() || uid === process.getuid?.())) {
    await attempt(directory, () => grantSearch(directory, mode, owner));
    return;
  }
  throw new ApplianceError('QEMU_ACCESS', `QEMU runs as user ${owner.uid}, which may not enter ${directory}`, {
    details: { directory, uid: owner.uid, gid: owner.gid },
    hint: `Put the state directory where others may search (for example below /var/lib), or run \`setfacl -m u:${owner.uid}:x ${directory}\`.`,
  });
}

async function grantSearch(directory: string, mode: number, owner: QemuOwner): Promise<void> {
  try {
    await grantAccess(directory, { uid: owner.uid, rights: MAY.search });
  } catch (error) {
    if (systemErrorCode(error) !== 'EOPNOTSUPP' || !isRoot()) throw error;
    await chown(directory, 0, owner.gid);
    await chmod(directory, (mode % 0o1000) | GROUP_SEARCH);
  }
}

const GROUP_SEARCH = 0o010;

async function look(path: string, owner: QemuOwner): Promise<{ mode: number; uid: number; rights: number }> {
  try {
    const { mode, uid } = await stat(path);
    return { mode, uid, rights: await rightsOf(path, owner) };
  } catch (error) {
    throw storageError(error, 'look at', path);
  }
}

/** All directories on the way to a path, the root first. */
function ancestors(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [...ancestors(parent), parent];
}

function isWithin(directory: string, path: string): boolean {
  const way = relative(directory, path);
  return way === '' || (!way.startsWith('..') && !way.startsWith('/'));
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

async function attempt(path: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (systemErrorCode(error) !== 'EOPNOTSUPP') throw storageError(error, 'give QEMU access to', path);
    throw new ApplianceError('QEMU_ACCESS', `QEMU cannot be let into ${path}: its file system has no access lists`, {
      cause: error,
      details: { path },
      hint: 'Run the service as root, use qemu:///session, or move the state directory to a file system with access lists (ext4, XFS, Btrfs, tmpfs).',
    });
  }
}
