// SPDX-License-Identifier: Apache-2.0

/** One entry of an initramfs. `mode` is the whole st_mode; files are owned by root. */
export interface CpioEntry {
  readonly path: string;
  readonly mode: number;
  readonly content: Uint8Array;
}

export const DIRECTORY_MODE = 0o040755;
export const PROGRAM_MODE = 0o100755;
export const FILE_MODE = 0o100644;
export const LINK_MODE = 0o120777;

const TRAILER = 'TRAILER!!!';

/** An archive in the "newc" format (Linux: Documentation/driver-api/early-userspace/buffer-format.rst). Same entries, same bytes. */
export function encodeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  let inode = 1;
  for (const entry of entries) parts.push(...encodeEntry(entry, inode++));
  parts.push(...encodeEntry({ path: TRAILER, mode: 0, content: new Uint8Array() }, 0));
  return Buffer.concat(parts);
}

function encodeEntry({ path, mode, content }: CpioEntry, inode: number): Buffer[] {
  const name = Buffer.from(`${path}\0`);
  const links = mode === DIRECTORY_MODE ? 2 : 1;
  // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
  const fields = [inode, mode, 0, 0, links, 0, content.length, 0, 0, 0, 0, name.length, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  return [
    Buffer.from(header, 'latin1'),
    name,
    padding(header.length + name.length),
    Buffer.from(content),
    padding(content.length),
  ];
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}
