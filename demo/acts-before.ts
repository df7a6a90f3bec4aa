// SPDX-License-Identifier: Apache-2.0
import { copyFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { formatBytes, formatDuration } from '../appliance/cli/format.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { type GuestImage, guestDomainXml, guestImage, probeAcceleration } from '../lab/guest.ts';
import { expectChild } from './child.ts';
import { buildDataDisk } from './data-disk.ts';
import { GuestShell } from './guest-shell.ts';
import { type Play, timed } from './play.ts';

/** The first half of the demo: a machine, its backups, and what happens to it. */

const MIB = 1024 * 1024;
const FILES_WRITTEN = 4;
const FILE_MIB = 4;
/** What a file system may write for itself beside a few files: journal, inodes, bitmaps, superblocks. */
const FILE_SYSTEM_BYTES = 24 * MIB;
/** Old files that are hashed too. */
const OLD_FILES_HASHED = 40;
/** All inodes of the file system lie in here, whatever the size of the disk: the inode tables of 16 groups are together. */
const DAMAGE_MIB = 48;

export async function machineAct({ show, stage, figures, options }: Play): Promise<GuestShell> {
  show.act('A machine', 'A small Linux guest under libvirt. Half of its disk holds programs and libraries from here.');
  show.busy('building the guest: kernel and busybox of this distribution (downloaded once, the first time)');
  const built = await timed(() => guestImage(join(stage.cacheDirectory, 'guest')));
  stage.signal.throwIfAborted();
  const acceleration = await probeAcceleration(built.value);
  const virtualization = acceleration === 'kvm' ? 'with KVM' : 'without hardware virtualization';
  show.done(`Linux ${built.value.kernelRelease} and busybox are ready`, built.durationMs);
  show.busy("building the guest's disk");
  const diskPath = stage.path('disk.qcow2');
  const sizeBytes = options.diskMiB * MIB;
  const disk = await timed(() =>
    buildDataDisk({ path: diskPath, sizeBytes, dataBytes: sizeBytes / 2, signal: stage.signal }),
  );
  Object.assign(figures, {
    acceleration,
    diskBytes: sizeBytes,
    files: disk.value.files,
    fileBytes: disk.value.dataBytes,
  });
  const content = `${disk.value.files.toLocaleString('en-US')} files, ${formatBytes(disk.value.dataBytes)}`;
  show.done(`a qcow2 disk of ${formatBytes(sizeBytes)} is filled with ${content}`, disk.durationMs);

  const xmlPath = stage.path('machine.xml');
  const definition = {
    name: stage.machineName,
    uuid: stage.machineId,
    image: stage.isLibvirtPrivate ? built.value : await copiedImage(built.value, stage.directory),
    acceleration,
    disks: [{ path: diskPath, format: 'qcow2', target: 'vda', serial: 'DEMO-1' }],
  } as const;
  await writeFile(xmlPath, guestDomainXml(definition));
  show.command('virsh -c "$LIBVIRT" define $DEMO/machine.xml');
  await stage.define(xmlPath);
  show.command(`virsh -c "$LIBVIRT" start ${stage.machineName}`);
  show.busy('booting');
  const startedMs = systemClock.elapsedMs();
  await stage.virsh('start', stage.machineName);
  const guest = await GuestShell.connect(stage, stage.machineName);
  figures.originalBootMs = guest.answeredAtMs - startedMs;
  show.claim(`the guest is up and answers, ${virtualization}`, true, figures.originalBootMs);
  return guest;
}

/** For a libvirt whose QEMU runs as another user: the checkout may be closed to it. */
async function copiedImage(image: GuestImage, directory: string): Promise<GuestImage> {
  const copied = async (path: string): Promise<string> => {
    await copyFile(path, join(directory, basename(path)));
    return join(directory, basename(path));
  };
  return { ...image, kernelPath: await copied(image.kernelPath), initrdPath: await copied(image.initrdPath) };
}

export async function repositoryAct(play: Play): Promise<void> {
  play.show.act('A repository', 'Encrypted unless told otherwise. The recovery key is shown this once.');
  const end = await play.understudy(['init', '--repository', play.stage.path('repository')]);
  play.show.done('the repository is ready', end.durationMs);
}

export async function firstBackupAct(play: Play): Promise<void> {
  const { show, figures } = play;
  show.act('First backup', 'All of the disk, while the machine runs. QEMU begins to record what changes from here on.');
  const backup = await play.backup();
  figures.firstBackup = backup;
  show.claim(
    `${formatBytes(backup.readBytes)} read and stored in ${formatBytes(backup.storedBytes)}, compressed and encrypted`,
    backup.kind === 'full' && backup.readBytes >= (figures.fileBytes ?? 0),
    backup.commandMs,
  );
}

/** Lets the guest write. Returns hashes that it computed itself, in the format of sha256sum. */
export async function workAct({ show, figures }: Play, guest: GuestShell): Promise<string> {
  const wroteBytes = FILES_WRITTEN * FILE_MIB * MIB;
  show.act(
    'The machine works',
    `It writes ${formatBytes(wroteBytes)} of new files, changes an old one in place, and deletes another.`,
  );
  const numbers = Array.from({ length: FILES_WRITTEN }, (_, index) => index + 1).join(' ');
  show.command(
    `for i in ${numbers}; do dd if=/dev/urandom of=/data/orders/$i.db bs=1M count=${FILE_MIB}; done`,
    'guest #',
  );
  const script = `set -e
    cd /data
    mkdir orders
    for i in ${numbers}; do dd if=/dev/urandom of=orders/$i.db bs=1M count=${FILE_MIB} 2>/dev/null; done
    changed=$(find usr -type f -size +64k | head -n 1)
    dd if=/dev/urandom of=$changed bs=4k count=1 seek=7 conv=notrunc 2>/dev/null
    rm $(find usr -type f | tail -n 1)
    sync
    find usr -type f -size -64k | head -n ${OLD_FILES_HASHED} > /tmp/hashed
    { ls orders/*; echo $changed; cat /tmp/hashed; } > /tmp/names
    while read -r name; do sha256sum "$name"; done < /tmp/names`;
  show.busy('writing, and computing hashes');
  const { value: hashes, durationMs } = await timed(() => guest.expect(script));
  figures.guestWroteBytes = wroteBytes;
  show.done(`written; the guest computed SHA-256 of ${hashes.split('\n').length} files, new and old`, durationMs);
  return hashes;
}

/** Returns the path of a reference: the disk at the moment of the backup, copied by qemu-img alone. */
export async function secondBackupAct(play: Play, guest: GuestShell): Promise<string> {
  const { show, stage, figures } = play;
  show.act(
    'Second backup',
    'Only what changed is read. For an exact comparison later the guest keeps its disk as it is meanwhile, and qemu-img makes an independent copy of it.',
  );
  const reference = stage.path('reference.raw');
  show.command('mount -o remount,ro /data', 'guest #');
  await guest.expect('sync && mount -o remount,ro /data');
  show.command('qemu-img convert -U -O raw $DEMO/disk.qcow2 $DEMO/reference.raw');
  show.busy('copying the disk');
  await expectChild(['qemu-img', 'convert', '-U', '-O', 'raw', stage.path('disk.qcow2'), reference], stage);
  const backup = await play.backup();
  figures.secondBackup = backup;
  show.claim(
    `${formatBytes(backup.readBytes)} of ${formatBytes(figures.diskBytes ?? 0)} read, in ${formatDuration(backup.backupMs)} by the clock of the appliance`,
    backup.kind === 'incremental' && backup.readBytes <= (figures.guestWroteBytes ?? 0) + FILE_SYSTEM_BYTES,
    backup.commandMs,
  );
  await guest.expect('mount -o remount,rw /data');
  return reference;
}

export async function damageAct({ show }: Play, guest: GuestShell): Promise<void> {
  show.act('Disaster', `Something in the guest writes garbage over the first ${DAMAGE_MIB} MiB of its disk.`);
  show.command(`dd if=/dev/urandom of=/dev/vda bs=1M count=${DAMAGE_MIB}`, 'guest #');
  show.busy('destroying');
  await guest.expect(
    `dd if=/dev/urandom of=/dev/vda bs=1M count=${DAMAGE_MIB} 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches`,
  );
  show.command('ls /data /data/orders', 'guest #');
  const { status, output } = await guest.run('ls /data /data/orders');
  show.output(output);
  show.claim('the files are gone', status !== 0);
}
