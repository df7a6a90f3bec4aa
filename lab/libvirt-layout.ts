// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { withReaper } from './reaper.ts';

/** How a private daemon is started, and where it keeps what others look for. */
export interface LibvirtLayout {
  readonly uri: string;
  readonly socketPath: string;
  /** Of QEMU's process id files. */
  readonly pidDirectory: string;
  readonly configDirectory: string;
  /** Created before the start. */
  readonly directories: readonly string[];
  readonly directoryMode: number;
  readonly environment: NodeJS.ProcessEnv;
  readonly command: readonly string[];
  readonly qemuConf: readonly string[];
  readonly daemonConf: readonly string[];
}

const SYSTEM_PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`;
/** Root becomes Debian's user `daemon` in the namespace: libvirt wants a user that /etc/passwd knows. */
export const USER_NAMESPACE_COMMAND = ['unshare', '--user', '--map-user=1', '--map-group=1'] as const;
export const MOUNT_NAMESPACE_COMMAND = ['unshare', '--mount', '--propagation', 'private'] as const;
/** Of a daemon of the system; folders of ours take their places in its mount namespace. */
const SYSTEM_FOLDERS = {
  run: '/run/libvirt',
  etc: '/etc/libvirt',
  lib: '/var/lib/libvirt',
  log: '/var/log/libvirt',
  cache: '/var/cache/libvirt',
} as const;
const APPARMOR = '/sys/kernel/security/apparmor';
/**
 * Root's daemon looks whether QEMU's user may use /dev/kvm and whether QEMU did, and examines QEMU anew, for minutes, whenever the
 * two differ, as they do in containers. Without the device they agree.
 */
const MOUNT = [
  '[ ! -e /dev/kvm ] || mount --bind "$0" /dev/kvm || exit 1',
  'while [ "$1" != -- ]; do mkdir -p "$2" && mount --bind "$1" "$2" || exit 1; shift 2; done',
  'shift; exec "$@"',
].join('\n');

/** In session mode, which is what libvirtd does when it is not root. */
export function sessionLayout(directory: string, cacheDirectory: string): LibvirtLayout {
  const configDirectory = join(directory, 'c', 'libvirt');
  const socketPath = join(directory, 'r', 'libvirt', 'libvirt-sock');
  return {
    uri: `qemu+unix:///session?socket=${socketPath}`,
    socketPath,
    pidDirectory: join(directory, 'r', 'libvirt', 'qemu', 'run'),
    configDirectory,
    directories: [join(directory, 'r'), configDirectory, join(directory, 'd')],
    directoryMode: 0o700,
    environment: {
      PATH: SYSTEM_PATH,
      HOME: directory,
      XDG_RUNTIME_DIR: join(directory, 'r'),
      XDG_CONFIG_HOME: join(directory, 'c'),
      XDG_DATA_HOME: join(directory, 'd'),
      XDG_CACHE_HOME: cacheDirectory,
    },
    command: [...(process.getuid?.() === 0 ? USER_NAMESPACE_COMMAND : []), ...withReaper(['libvirtd'])],
    qemuConf: ['stdio_handler = "file"', 'security_driver = "none"'],
    daemonConf: [],
  };
}

/**
 * As Debian's `qemu:///system`: the daemon is root, its QEMU is the user `libvirt-qemu`, files change hands, AppArmor
 * confines where the kernel has it. There is no KVM. What lies in `/run/libvirt` for it lies in `<directory>/run` for us.
 */
export function systemLayout(directory: string, cacheDirectory: string): LibvirtLayout {
  const folders = { ...ownFolders(directory), cache: `${cacheDirectory}-system` };
  const mounts = Object.entries(SYSTEM_FOLDERS).flatMap(([name, path]) => [
    folders[name as keyof typeof folders],
    path,
  ]);
  const socketPath = join(folders.run, 'libvirt-sock');
  return {
    uri: `qemu+unix:///system?socket=${socketPath}`,
    socketPath,
    pidDirectory: join(folders.run, 'qemu'),
    configDirectory: folders.etc,
    directories: Object.values(folders),
    directoryMode: 0o711,
    environment: { PATH: SYSTEM_PATH, HOME: directory },
    command: [
      ...MOUNT_NAMESPACE_COMMAND,
      'sh',
      '-c',
      MOUNT,
      join(folders.etc, 'qemu.conf'),
      ...mounts,
      '--',
      ...withReaper(['libvirtd']),
    ],
    qemuConf: [
      'stdio_handler = "file"',
      'user = "libvirt-qemu"',
      'group = "libvirt-qemu"',
      'dynamic_ownership = 1',
      // A container has neither the control groups nor the devices that QEMU gets of its own otherwise.
      'cgroup_controllers = [ ]',
      'namespaces = [ ]',
      ...(existsSync(APPARMOR) ? [] : ['security_driver = "none"']),
    ],
    // As members of the group `libvirt` have it.
    daemonConf: ['auth_unix_rw = "none"', 'unix_sock_rw_perms = "0777"'],
  };
}

/** Where a path that a daemon of `systemLayout` names is for us. */
export function outsideOf(directory: string, path: string): string {
  for (const [name, folder] of Object.entries(ownFolders(directory))) {
    const inside = SYSTEM_FOLDERS[name as keyof typeof SYSTEM_FOLDERS];
    if (path.startsWith(`${inside}/`)) return folder + path.slice(inside.length);
  }
  return path;
}

function ownFolders(directory: string): Record<'run' | 'etc' | 'lib' | 'log', string> {
  return {
    run: join(directory, 'run'),
    etc: join(directory, 'etc'),
    lib: join(directory, 'lib'),
    log: join(directory, 'log'),
  };
}
