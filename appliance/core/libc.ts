// SPDX-License-Identifier: Apache-2.0
import { createRequire } from 'node:module';
import type koffiModule from 'koffi';

/*
 * The few system calls that Node does not offer, through libc.so.6. A failed call throws an error like Node's own, with
 * `code`, `errno` and `syscall`. Calls that may wait for a disk run on Node's thread pool. The caller keeps the
 * descriptor open until the call has settled.
 */

/** flock(2): takes the exclusive lock of the open file description, or throws EAGAIN at once when another has it. */
export function lockExclusively(fd: number): void {
  const calls = systemCalls();
  if (calls.flock(fd, LOCK_EX | LOCK_NB) !== 0) throw failure('flock', calls.koffi.errno());
}

/** lseek(2) with SEEK_DATA: the first offset from `offset` on that holds data, or undefined when there is none. */
export async function nextData(fd: number, offset: number): Promise<number | undefined> {
  return await seek(fd, offset, SEEK_DATA);
}

/** lseek(2) with SEEK_HOLE: the first offset from `offset` on that lies in a hole; the file's end counts as one. */
export async function nextHole(fd: number, offset: number): Promise<number | undefined> {
  return await seek(fd, offset, SEEK_HOLE);
}

/** lseek(2) with SEEK_END: the size of a file or, unlike `stat`, of a block device. */
export async function endOfFile(fd: number): Promise<number> {
  return (await seek(fd, 0, SEEK_END)) ?? 0;
}

/**
 * fallocate(2): makes the range read as zeroes without changing the file's size; `punch` frees its storage, `zero` keeps
 * it. Throws EOPNOTSUPP when the file system or device cannot do it; nothing has changed then.
 */
export async function zeroRange(
  fd: number,
  how: 'punch' | 'zero',
  range: { offset: number; length: number },
): Promise<void> {
  const calls = systemCalls();
  const mode = FALLOC_FL_KEEP_SIZE | (how === 'punch' ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
  await new Promise<void>((resolve, reject) => {
    calls.fallocate.async(fd, mode, range.offset, range.length, (error: unknown, result: number) => {
      if (error !== null) reject(new Error('fallocate could not be called', { cause: error }));
      else if (result === 0) resolve();
      else reject(failure('fallocate', calls.koffi.errno()));
    });
  });
}

/** sched_yield(2): whoever else waits for this processor has it first. */
export function yieldProcessor(): void {
  systemCalls().sched_yield();
}

/** getxattr(2): an extended attribute of a file, or undefined when it has none of that name. At most 4096 bytes. */
export function getExtendedAttribute(path: string, name: string): Buffer | undefined {
  const calls = systemCalls();
  const value = Buffer.alloc(MAX_ATTRIBUTE_BYTES);
  const length = calls.getxattr(path, name, value, value.length);
  if (length >= 0) return value.subarray(0, length);
  const errno = calls.koffi.errno();
  if (errno === calls.koffi.os.errno['ENODATA']) return undefined;
  throw failure('getxattr', errno);
}

/** setxattr(2): throws EOPNOTSUPP when the file system cannot keep it. */
export function setExtendedAttribute(path: string, name: string, value: Buffer): void {
  const calls = systemCalls();
  if (calls.setxattr(path, name, value, value.length, 0) !== 0) throw failure('setxattr', calls.koffi.errno());
}

/**
 * sendto(2): one datagram to a unix socket; a path that begins with `@` is of the abstract namespace. Does not wait. False when
 * nobody takes it. (unix(7))
 */
export function sendToUnixSocket(path: string, message: string): boolean {
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : path, 'utf8');
  if (name.length > MAX_SOCKET_PATH_BYTES) return false;
  const calls = systemCalls();
  const fd = calls.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  try {
    const address = Buffer.concat([Buffer.from(Uint16Array.of(AF_UNIX).buffer), name]);
    const bytes = Buffer.from(message, 'utf8');
    return calls.sendto(fd, bytes, bytes.length, MSG_NOSIGNAL, address, address.length) === bytes.length;
  } finally {
    calls.close(fd);
  }
}

/** setrlimit(2) of RLIMIT_NOFILE: as many open files as the hard limit allows. Returns the limit that is in force then. */
export function raiseFileLimit(): number {
  const calls = systemCalls();
  const limits = new BigUint64Array(2);
  const bytes = Buffer.from(limits.buffer);
  if (calls.getrlimit(RLIMIT_NOFILE, bytes) !== 0) throw failure('getrlimit', calls.koffi.errno());
  const [soft = 0n, hard = 0n] = limits;
  if (soft < hard) {
    limits[0] = hard;
    if (calls.setrlimit(RLIMIT_NOFILE, bytes) !== 0) return Number(soft);
  }
  return Number(hard);
}

const MAX_ATTRIBUTE_BYTES = 4096;
/** `sun_path` of a socket address without its last zero. */
const MAX_SOCKET_PATH_BYTES = 107;
/** <sys/socket.h>, <sys/resource.h> on Linux. */
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const MSG_NOSIGNAL = 0x4000;
const RLIMIT_NOFILE = 7;

/** flock(2), lseek(2), fallocate(2) on Linux: <sys/file.h>, <unistd.h>, <linux/falloc.h>; sched_yield(2): <sched.h>. */
const LOCK_EX = 2;
const LOCK_NB = 4;
const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const FALLOC_FL_KEEP_SIZE = 0x01;
const FALLOC_FL_PUNCH_HOLE = 0x02;
const FALLOC_FL_ZERO_RANGE = 0x10;

/** Numbers with two names on Linux. */
const PREFERRED_NAMES: ReadonlyMap<number, string> = new Map([
  [11, 'EAGAIN'],
  [95, 'EOPNOTSUPP'],
]);

interface AsyncCall {
  async(...parameters: unknown[]): void;
}

interface SystemCalls {
  readonly koffi: typeof koffiModule;
  readonly names: ReadonlyMap<number, string>;
  readonly flock: (fd: number, operation: number) => number;
  readonly sched_yield: () => number;
  readonly lseek: AsyncCall;
  readonly fallocate: AsyncCall;
  readonly socket: (domain: number, type: number, protocol: number) => number;
  /** Descriptor, message, its length, flags, address, its length. */
  readonly sendto: (...parameters: [number, Buffer, number, number, Buffer, number]) => number;
  readonly close: (fd: number) => number;
  readonly getrlimit: (resource: number, limits: Buffer) => number;
  readonly setrlimit: (resource: number, limits: Buffer) => number;
  readonly getxattr: (path: string, name: string, value: Buffer, size: number) => number;
  /** Path, name, value, its length, flags. */
  readonly setxattr: (...parameters: [string, string, Buffer, number, number]) => number;
}

/** Node's own way to load a CommonJS package on first use: processes that need none of this do not pay for it. */
const require = createRequire(import.meta.url);

let loaded: SystemCalls | undefined;

function systemCalls(): SystemCalls {
  if (loaded === undefined) {
    const koffi = require('koffi') as typeof koffiModule;
    const libc = koffi.load('libc.so.6');
    loaded = {
      koffi,
      names: new Map(Object.entries(koffi.os.errno).map(([name, number]) => [number, name])),
      flock: libc.func('int flock(int fd, int operation)'),
      sched_yield: libc.func('int sched_yield(void)'),
      lseek: libc.func('int64_t lseek(int fd, int64_t offset, int whence)'),
      fallocate: libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)'),
      socket: libc.func('int socket(int domain, int type, int protocol)'),
      sendto: libc.func(
        'int64_t sendto(int fd, const void *message, size_t length, int flags, const void *address, uint32_t size)',
      ),
      close: libc.func('int close(int fd)'),
      getrlimit: libc.func('int getrlimit(int resource, _Out_ void *limits)'),
      setrlimit: libc.func('int setrlimit(int resource, const void *limits)'),
      getxattr: libc.func('int64_t getxattr(const char *path, const char *name, void *value, size_t size)'),
      setxattr: libc.func(
        'int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)',
      ),
    };
  }
  return loaded;
}

function seek(fd: number, offset: number, whence: number): Promise<number | undefined> {
  const calls = systemCalls();
  return new Promise((resolve, reject) => {
    calls.lseek.async(fd, offset, whence, (error: unknown, result: number) => {
      const errno = calls.koffi.errno();
      if (error !== null) reject(new Error('lseek could not be called', { cause: error }));
      else if (result >= 0) resolve(result);
      else if (errno === calls.koffi.os.errno['ENXIO']) resolve(undefined);
      else reject(failure('lseek', errno));
    });
  });
}

function failure(syscall: string, errno: number): Error {
  const code = PREFERRED_NAMES.get(errno) ?? systemCalls().names.get(errno) ?? `E${errno}`;
  return Object.assign(new Error(`${code}: ${syscall} failed`), { code, errno, syscall });
}
