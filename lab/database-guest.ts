// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ApplianceError } from '../appliance/core/errors.ts';
import { type CpioEntry, DIRECTORY_MODE, encodeCpio, FILE_MODE, PROGRAM_MODE } from './cpio.ts';
import { DATABASE_FILES } from './database-init.ts';
import { type Acceleration, createDataDisk, type GuestDisk, type GuestImage, guestDomainXml } from './guest.ts';
import { linkedProgramEntries } from './linked-program.ts';

/** The virtio-serial port over which the guest reports; it waits with its commits while nobody listens. */
export const REPORT_PORT: string = 'understudy.report';
/** How the database makes its commits durable: SQLite's log of writes, or its rollback journal. */
export type DatabaseJournal = 'wal' | 'delete';

export interface DatabaseGuest {
  readonly name: string;
  readonly uuid?: string;
  /** From `databaseGuestImage`. */
  readonly image: GuestImage;
  readonly acceleration: Acceleration;
  /** `vda` with the database and `vdb` with the file that is written in step; from `createDatabaseDisks`. */
  readonly disks: readonly GuestDisk[];
  readonly journal?: DatabaseJournal;
  /** Between two transactions, so that a shared machine is not filled by one guest. */
  readonly pauseUs?: number;
}

/** What a guest found in its database: the highest number that is committed, or what is broken. */
export type DatabaseState = { readonly intactAt: number } | { readonly broken: string };

const DEFAULT_DISK_BYTES = 48 * 1024 * 1024;
const VERIFY_TIMEOUT_MS = 90_000;
const SQLITE_PATH = '/usr/bin/sqlite3';

/**
 * The small guest with SQLite's shell in it. With `understudy.database=commit` it first checks what it finds (`INTACT n` or
 * `BROKEN …`), then commits numbered transactions and reports `COMMIT n` after each; with `verify` it checks and powers off.
 * @throws ApplianceError TOOL_MISSING without sqlite3
 */
export async function databaseGuestImage(base: GuestImage): Promise<GuestImage> {
  const program = existsSync(SQLITE_PATH) ? await linkedProgramEntries(SQLITE_PATH, 'database') : undefined;
  if (program === undefined) {
    throw new ApplianceError('TOOL_MISSING', 'sqlite3 is not installed', { hint: 'Install sqlite3.' });
  }
  const files: CpioEntry[] = Object.entries(DATABASE_FILES).map(([path, { isProgram, text }]) => ({
    path,
    mode: isProgram ? PROGRAM_MODE : FILE_MODE,
    content: Buffer.from(text),
  }));
  const archive = encodeCpio([
    { path: 'database', mode: DIRECTORY_MODE, content: new Uint8Array() },
    ...program,
    ...files,
  ]);
  const key = createHash('sha256').update(archive).digest('hex').slice(0, 16);
  const initrdPath = join(dirname(base.initrdPath), `database-${key}.cpio`);
  if (!existsSync(initrdPath)) {
    // The kernel unpacks one archive after the other (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).
    const work = await mkdtemp(join(dirname(base.initrdPath), 'database-'));
    await writeFile(join(work, 'cpio'), Buffer.concat([aligned(await readFile(base.initrdPath)), archive]));
    await rename(join(work, 'cpio'), initrdPath);
    await rm(work, { recursive: true });
  }
  return { ...base, initrdPath };
}

/** Two empty ext4 disks in an existing directory; the guest makes database and file at its first start. */
export async function createDatabaseDisks(
  directory: string,
  options: { readonly format?: 'qcow2' | 'raw'; readonly sizeBytes?: number } = {},
): Promise<GuestDisk[]> {
  const { format = 'qcow2', sizeBytes = DEFAULT_DISK_BYTES } = options;
  const disks = ['vda', 'vdb'].map((target) => ({
    path: join(directory, `database-${target}.${format}`),
    format,
    target,
  }));
  for (const { path } of disks) await createDataDisk({ path, sizeBytes, format });
  return disks;
}

/** As a libvirt domain that commits and reports over `REPORT_PORT`. */
export function databaseDomainXml(guest: DatabaseGuest): string {
  const { journal = 'wal', pauseUs = 0, ...definition } = guest;
  return guestDomainXml({
    ...definition,
    kernelArguments: kernelArguments(
      'commit',
      `understudy.journal=${journal} understudy.pause-us=${pauseUs} understudy.report=${REPORT_PORT}`,
    ),
    hasShell: false,
    extraDevices: `<channel type="unix"><target type="virtio" name="${REPORT_PORT}"/></channel>`,
  });
}

/**
 * Boots the guest on the two disks, each a URI or path as QEMU takes it, in a QEMU of its own, and says what it found. What
 * it writes is thrown away.
 * @throws ApplianceError TIMED_OUT, TOOL_FAILED with the console when the guest says nothing
 */
export async function verifyDatabase(
  guest: { readonly image: GuestImage; readonly acceleration: Acceleration; readonly journal?: DatabaseJournal },
  disks: { readonly vda: string; readonly vdb: string; readonly format?: 'qcow2' | 'raw' },
): Promise<DatabaseState> {
  const { image, acceleration, journal = 'wal' } = guest;
  const drives = [disks.vda, disks.vdb].flatMap((file) => [
    '-drive',
    `file=${file.replaceAll(',', ',,')},format=${disks.format ?? 'raw'},if=virtio,snapshot=on,cache=unsafe`,
  ]);
  const append = `console=ttyS0 quiet loglevel=3 panic=-1 tsc=unstable ${kernelArguments('verify', `understudy.journal=${journal}`)}`;
  const fixed = `-accel ${acceleration} -machine q35 -m 192 -nodefaults -no-reboot -display none -serial stdio`;
  const kernel = ['-kernel', image.kernelPath, '-initrd', image.initrdPath, '-append', append];
  const console = await consoleOutput([...fixed.split(' '), ...kernel, ...drives]);
  for (const line of console.split(/\r?\n/)) {
    const state = parseState(line);
    if (state !== undefined) return state;
  }
  throw new ApplianceError('TOOL_FAILED', `the guest said nothing about its database: ${console.slice(-2000)}`);
}

/** The state that a line of a guest's report says, if it says one. */
export function parseState(line: string): DatabaseState | undefined {
  const intact = /^INTACT (\d+)$/.exec(line)?.[1];
  if (intact !== undefined) return { intactAt: Number(intact) };
  const broken = /^(?:BROKEN|FAILED) (.*)$/.exec(line)?.[1];
  return broken === undefined ? undefined : { broken };
}

/** The host's socket of a virtio-serial port, from the XML of the running domain. */
export function channelSocketPath(liveXml: string, port: string): string | undefined {
  for (const channel of liveXml.match(/<channel [\s\S]*?<\/channel>/g) ?? []) {
    if (channel.includes(`name='${port}'`)) return /<source mode='bind' path='([^']+)'/.exec(channel)?.[1];
  }
  return undefined;
}

function kernelArguments(mode: 'commit' | 'verify', more: string): string {
  return `rdinit=/database/init understudy.database=${mode} ${more}`;
}

/** Archives begin at multiples of four bytes. */
function aligned(archive: Buffer): Buffer {
  return Buffer.concat([archive, Buffer.alloc((4 - (archive.length % 4)) % 4)]);
}

async function consoleOutput(args: readonly string[]): Promise<string> {
  return await new Promise((resolve, reject) => {
    let output = '';
    let isLate = false;
    const qemu = spawn('qemu-system-x86_64', [...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => {
      isLate = true;
      qemu.kill('SIGKILL');
    }, VERIFY_TIMEOUT_MS);
    const collect = (chunk: Buffer): void => {
      output += chunk.toString('latin1');
    };
    qemu.stdout.on('data', collect);
    qemu.stderr.on('data', collect);
    qemu.on('error', (cause) => {
      reject(new ApplianceError('TOOL_MISSING', 'qemu-system-x86_64 cannot be started', { cause }));
    });
    qemu.on('close', () => {
      clearTimeout(timer);
      if (isLate) reject(new ApplianceError('TIMED_OUT', `the guest did not end: ${output.slice(-2000)}`));
      else resolve(output);
    });
  });
}
