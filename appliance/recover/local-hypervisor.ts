// SPDX-License-Identifier: Apache-2.0
import { chmod, chown, stat } from 'node:fs/promises';
import { dirname, relative } from 'node:path';
import { ApplianceError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { QemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';

const URI = /^[a-z]+(?:\+([a-z0-9]+))?:\/\/([^/?#]*)/i;
/** Search permission for everybody: names below can be used by those who know them, and not listed. */
const SEARCH_FOR_ALL = 0o711;
const SOCKET_FOR_ALL = 0o666;

/**
 * A booted machine reads its disks from a unix socket of this host, so its hypervisor must run here.
 * @throws ApplianceError NOT_SUPPORTED for a connection to another host
 */
export function checkIsLocal(uri: string): void {
  const [, transport = 'unix', host = ''] = URI.exec(uri) ?? [];
  if (host === '' && transport.toLowerCase() === 'unix') return;
  throw new ApplianceError('NOT_SUPPORTED', `${uri} is another host; a point is booted on the host of the appliance`, {
    details: { uri },
    hint: 'Use qemu:///system or qemu:///session, or restore the machine there.',
  });
}

export interface AccessRequest {
  /** Who QEMU runs as; undefined for a session daemon. */
  readonly owner: QemuOwner | undefined;
  /** The unix socket of the NBD server. */
  readonly socketPath: string;
  /** Directories and files of ours that QEMU must reach, beneath `ownDirectory`. */
  readonly ownDirectory: string;
  readonly paths: readonly string[];
}

/**
 * Lets QEMU reach our socket and files when it runs as another user (`qemu:///system`): the directories between
 * `ownDirectory` and each path, and the socket's own directory, become searchable (0711), and the socket is given to that
 * user, or, when we are not root, opened for all. Nothing is changed for a session daemon. Directories that are not ours
 * are only looked at.
 * @throws ApplianceError BOOT_FAILED, with the directory in the way; IO_FAILED
 */
export async function letQemuReach(request: AccessRequest): Promise<void> {
  const { owner } = request;
  if (owner === undefined || owner.uid === 0 || owner.uid === process.getuid?.()) return;
  for (const path of [request.socketPath, ...request.paths]) {
    for (const directory of ancestors(path)) await letSearch(directory, request, owner);
  }
  await letConnect(request.socketPath, owner);
}

/** All directories on the way to a path, the root first. */
function ancestors(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [...ancestors(parent), parent];
}

async function letSearch(directory: string, request: AccessRequest, owner: QemuOwner): Promise<void> {
  const found = await look(directory);
  if (isSearchable(found, owner)) return;
  const isOurs = directory === dirname(request.socketPath) || isWithin(request.ownDirectory, directory);
  if (isOurs && isOwn(found.uid)) {
    await attempt('open', directory, chmod(directory, (found.mode % 0o10000) | SEARCH_FOR_ALL));
    return;
  }
  throw new ApplianceError('BOOT_FAILED', `QEMU runs as user ${owner.uid}, which may not enter ${directory}`, {
    details: { directory, uid: owner.uid, gid: owner.gid },
    hint: `Put the state directory where others may search (for example below /var/lib), or run \`chmod o+x ${directory}\`.`,
  });
}

async function letConnect(socketPath: string, owner: QemuOwner): Promise<void> {
  if (process.getuid?.() === 0) await attempt('give away', socketPath, chown(socketPath, owner.uid, owner.gid));
  else await attempt('open', socketPath, chmod(socketPath, SOCKET_FOR_ALL));
}

interface Permissions {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** As the kernel decides for a user without privileges; supplementary groups are not known here. (path_resolution(7)) */
function isSearchable({ mode, uid, gid }: Permissions, owner: QemuOwner): boolean {
  const digit = uid === owner.uid ? 0o100 : gid === owner.gid ? 0o010 : 0o001;
  return Math.floor(mode / digit) % 2 === 1;
}

function isOwn(uid: number): boolean {
  const own = process.getuid?.();
  return own === 0 || own === uid;
}

function isWithin(directory: string, path: string): boolean {
  const way = relative(directory, path);
  return way === '' || (!way.startsWith('..') && !way.startsWith('/'));
}

function look(path: string): Promise<Permissions> {
  return attempt('look at', path, stat(path));
}

async function attempt<T>(action: string, path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw storageError(error, action, path);
  }
}
