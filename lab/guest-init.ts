// SPDX-License-Identifier: Apache-2.0

/** The virtio-serial port over which a `GuestConsole` talks to the guest's shell. */
export const SHELL_PORT: string = 'understudy.shell';
/** Where the guest mounts its first disk when it holds an ext4 file system. */
export const DATA_DIRECTORY: string = '/data';
/** Printed on the serial console when user space is up. */
export const UP_MARKER: string = 'understudy: guest is up';

/** Kernel modules in the order in which they must be inserted; those that are built in or absent are left out. */
export const GUEST_MODULES: readonly string[] = [
  'virtio_ring',
  'virtio',
  'virtio_pci_legacy_dev',
  'virtio_pci_modern_dev',
  'virtio_pci',
  'virtio_blk',
  'virtio_console',
  'button',
  'evdev',
];

/**
 * The guest's only program, run by busybox as process 1. Kernel arguments: `understudy.data=no` leaves the disk unmounted,
 * `understudy.once` powers off as soon as user space is up. The shell port takes lines `ID BASE64-OF-COMMAND` and answers each with
 * `BEGIN ID`, the output in base64, and `END ID STATUS`. While the host side is disconnected a read ends at once, hence the pause.
 */
export const GUEST_INIT: string = `#!/bin/sh
export PATH=/bin HOME=/ TERM=dumb
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in $(cat /modules/order); do insmod /modules/$module.ko 2>/dev/null; done
cmdline=" $(cat /proc/cmdline) "
case "$cmdline" in *" understudy.once "*) echo "${UP_MARKER}"; poweroff -f;; esac
i=0
while [ ! -b /dev/vda ] && [ $i -lt 20 ]; do usleep 25000; i=$((i + 1)); done
case "$cmdline" in
  *" understudy.data=no "*) ;;
  *) [ -b /dev/vda ] && mount -t ext4 -o discard /dev/vda ${DATA_DIRECTORY} 2>/dev/null ;;
esac
port_of() {
  for p in /sys/class/virtio-ports/*; do
    [ "$(cat $p/name 2>/dev/null)" = "$1" ] && echo /dev/\${p##*/} && return
  done
}
agent=$(port_of org.qemu.guest_agent.0)
[ -n "$agent" ] && [ -x /agent/qemu-ga ] && (LD_LIBRARY_PATH=/agent /agent/qemu-ga -m virtio-serial -p $agent -t /tmp 2>/dev/null &)
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\\numount ${DATA_DIRECTORY}; poweroff -f\\n' > /etc/acpi/PWRF/00000080
chmod 755 /etc/acpi/PWRF/00000080
[ -e /dev/input/event0 ] && acpid -l /dev/null 2>/dev/null
echo "${UP_MARKER}"
shell=$(port_of ${SHELL_PORT})
[ -z "$shell" ] && exec sleep 1000000000
while :; do
  exec 3<>$shell
  while read -r id command <&3; do
    echo "$command" | base64 -d > /tmp/command 2>/dev/null
    sh /tmp/command > /tmp/output 2>&1 < /dev/null 3>&-
    status=$?
    { echo "BEGIN $id"; base64 /tmp/output; echo "END $id $status"; } >&3
  done
  exec 3>&-
  usleep 100000
done
`;
