// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { arch } from 'node:os';
import { basename, join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { ApplianceError, systemErrorCode } from '../appliance/core/errors.ts';
import { type CpioEntry, DIRECTORY_MODE, encodeCpio, FILE_MODE, LINK_MODE, PROGRAM_MODE } from './cpio.ts';
import { GUEST_INIT, GUEST_MODULES } from './guest-init.ts';
import { linkedProgramEntries } from './linked-program.ts';
import { run, tryRun } from './run.ts';

/** A kernel and an initramfs that boot the small guest. */
export interface GuestImage {
  readonly kernelPath: string;
  readonly initrdPath: string;
  /** True when QEMU's guest agent is in it. */
  readonly hasAgent: boolean;
  /** For example `6.1.0-56-cloud-amd64`. */
  readonly kernelRelease: string;
}

/** Changes with the shape of what is built. */
const IMAGE_VERSION = 1;
const DIRECTORIES = ['bin', 'dev', 'proc', 'sys', 'tmp', 'etc', 'data', 'mnt', 'modules', 'agent'] as const;

/** The kernel packages to try, each a small one for virtual machines; Debian's name first, then Ubuntu's. */
const KERNEL_PACKAGES = ['linux-image-cloud-amd64', 'linux-image-virtual', 'linux-image-amd64'] as const;

interface UnpackedKernel {
  readonly kernelPath: string;
  readonly release: string;
  /** The folder with `kernel/`, or undefined when everything is built in. */
  readonly modulesDirectory: string | undefined;
}

/**
 * The guest's kernel and initramfs, built once and kept in `.cache/guest` of the checkout. The kernel comes from the distribution's
 * package (downloaded, not installed), or else from /boot. Throws TOOL_FAILED when neither works, TOOL_MISSING without busybox,
 * NOT_SUPPORTED on another processor.
 */
export async function guestImage(cacheDirectory: string = defaultCacheDirectory()): Promise<GuestImage> {
  if (arch() !== 'x64') throw new ApplianceError('NOT_SUPPORTED', `the small guest is built for x86-64, not ${arch()}`);
  const busyboxPath = await staticBusybox();
  const key = await cacheKey(busyboxPath);
  const directory = join(cacheDirectory, key);
  if (!existsSync(join(directory, 'image.json'))) await build({ cacheDirectory, directory, busyboxPath });
  const meta = JSON.parse(await readFile(join(directory, 'image.json'), 'utf8')) as {
    hasAgent: boolean;
    kernelRelease: string;
  };
  return { kernelPath: join(directory, 'vmlinuz'), initrdPath: join(directory, 'initramfs.cpio'), ...meta };
}

async function build(where: { cacheDirectory: string; directory: string; busyboxPath: string }): Promise<void> {
  await mkdir(where.cacheDirectory, { recursive: true });
  const work = await mkdtemp(join(where.cacheDirectory, 'build-'));
  try {
    const kernel = await unpackKernel(join(work, 'kernel'));
    const agent = await agentEntries(join(work, 'agent'));
    const entries = [
      ...DIRECTORIES.map((path) => ({ path, mode: DIRECTORY_MODE, content: new Uint8Array() })),
      { path: 'init', mode: PROGRAM_MODE, content: Buffer.from(GUEST_INIT) },
      ...(await busyboxEntries(where.busyboxPath)),
      ...(await moduleEntries(kernel, work)),
      ...agent,
    ];
    const output = join(work, 'image');
    await mkdir(output);
    await copyFile(kernel.kernelPath, join(output, 'vmlinuz'));
    await writeFile(join(output, 'initramfs.cpio'), encodeCpio(entries));
    const meta = { hasAgent: agent.length > 0, kernelRelease: kernel.release };
    await writeFile(join(output, 'image.json'), JSON.stringify(meta));
    await moveInto(output, where.directory);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Another process may have built the same at the same time: then its result stays. */
async function moveInto(source: string, destination: string): Promise<void> {
  try {
    await rename(source, destination);
  } catch (error) {
    if (!existsSync(join(destination, 'image.json'))) throw error;
  }
}

async function cacheKey(busyboxPath: string): Promise<string> {
  const busybox = await stat(busyboxPath);
  const inputs = [IMAGE_VERSION, GUEST_INIT, ...GUEST_MODULES, arch(), busyboxPath, busybox.size, busybox.mtimeMs];
  return createHash('sha256').update(JSON.stringify(inputs)).digest('hex').slice(0, 16);
}

async function staticBusybox(): Promise<string> {
  for (const path of ['/bin/busybox', '/usr/bin/busybox']) {
    if (!existsSync(path)) continue;
    // ldd fails for a program without a dynamic section.
    if ((await tryRun('ldd', [path])) === undefined) return path;
  }
  throw new ApplianceError('TOOL_MISSING', 'busybox-static is not installed', { hint: 'Install busybox-static.' });
}

async function busyboxEntries(path: string): Promise<CpioEntry[]> {
  const applets = (await run(path, ['--list'])).stdout.split('\n').filter((name) => name !== '' && name !== 'busybox');
  return [
    { path: 'bin/busybox', mode: PROGRAM_MODE, content: await readFile(path) },
    ...applets.map((name) => ({ path: `bin/${basename(name)}`, mode: LINK_MODE, content: Buffer.from('busybox') })),
  ];
}

async function unpackKernel(directory: string): Promise<UnpackedKernel> {
  const failures: string[] = [];
  for (const meta of KERNEL_PACKAGES) {
    try {
      return await downloadKernel(meta, join(directory, meta));
    } catch (error) {
      failures.push(error instanceof Error ? error.message : String(error));
    }
  }
  const installed = await installedKernels();
  const readable = installed.find(isReadable);
  if (readable !== undefined) return kernelIn('/', releaseOf(readable));
  const closed = installed.map((path) => `${path} can be read by root only`);
  throw new ApplianceError('TOOL_FAILED', `no kernel for the guest: ${[...failures, ...closed].join('; ')}`, {
    hint: `Run \`apt-get update\` as root, so that a kernel can be downloaded${closed.length === 0 ? '' : `, or \`chmod +r ${installed[0]}\``}.`,
  });
}

async function downloadKernel(metaPackage: string, directory: string): Promise<UnpackedKernel> {
  await mkdir(directory, { recursive: true });
  const depends = (await run('apt-cache', ['depends', '--important', metaPackage])).stdout;
  const image = /Depends: (linux-image-\d\S+)/.exec(depends)?.[1];
  if (image === undefined) throw new ApplianceError('TOOL_FAILED', `${metaPackage} names no kernel`);
  const release = image.slice('linux-image-'.length);
  const packages = [image];
  // Ubuntu ships the modules in a package of their own.
  if (depends.includes(`linux-modules-${release}`) || (await hasPackage(`linux-modules-${release}`))) {
    packages.push(`linux-modules-${release}`);
  }
  await run('apt-get', ['download', ...packages], { cwd: directory, timeoutMs: 300_000 });
  for (const name of await readdir(directory)) {
    if (name.endsWith('.deb')) await run('dpkg', ['-x', join(directory, name), directory], { timeoutMs: 120_000 });
  }
  return kernelIn(directory, release);
}

async function hasPackage(name: string): Promise<boolean> {
  return ((await tryRun('apt-cache', ['show', '--no-all-versions', name]))?.stdout ?? '') !== '';
}

function kernelIn(root: string, release: string): UnpackedKernel {
  const kernelPath = join(root, 'boot', `vmlinuz-${release}`);
  if (!existsSync(kernelPath))
    throw new ApplianceError('TOOL_FAILED', `the kernel package of ${release} has no kernel`);
  const modules = [join(root, 'lib/modules', release), join(root, 'usr/lib/modules', release)].find(existsSync);
  return { kernelPath, release, modulesDirectory: modules };
}

/** Paths of the machine's own kernels, the newest first. Ubuntu keeps them from ordinary users. */
async function installedKernels(): Promise<string[]> {
  if (!existsSync('/boot')) return [];
  const names = (await readdir('/boot')).filter((name) => name.startsWith('vmlinuz-'));
  const byVersion = new Intl.Collator('en', { numeric: true });
  return names.sort((one, other) => byVersion.compare(other, one)).map((name) => join('/boot', name));
}

function releaseOf(kernelPath: string): string {
  return basename(kernelPath).slice('vmlinuz-'.length);
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === undefined) throw error;
    return false;
  }
}

/** The modules and their order; compressed ones are unpacked, because busybox's insmod takes plain ones. */
async function moduleEntries(kernel: UnpackedKernel, work: string): Promise<CpioEntry[]> {
  const found = new Map<string, string>();
  if (kernel.modulesDirectory !== undefined) {
    for (const entry of await readdir(kernel.modulesDirectory, { recursive: true })) {
      const match = /([^/]+)\.ko(\.xz|\.zst)?$/.exec(entry);
      if (match?.[1] !== undefined) found.set(match[1].replaceAll('-', '_'), join(kernel.modulesDirectory, entry));
    }
  }
  const entries: CpioEntry[] = [];
  const order: string[] = [];
  for (const name of GUEST_MODULES) {
    const path = found.get(name);
    if (path === undefined) continue;
    order.push(name);
    entries.push({ path: `modules/${name}.ko`, mode: FILE_MODE, content: await readModule(path, work) });
  }
  entries.push({ path: 'modules/order', mode: FILE_MODE, content: Buffer.from(`${order.join(' ')}\n`) });
  return entries;
}

async function readModule(path: string, work: string): Promise<Uint8Array> {
  if (path.endsWith('.ko')) return await readFile(path);
  if (path.endsWith('.zst')) return zstdDecompressSync(await readFile(path));
  const plain = join(work, 'module.ko');
  await copyFile(path, `${plain}.xz`);
  await run('xz', ['-d', '-f', '-q', `${plain}.xz`]);
  return await readFile(plain);
}

/** QEMU's guest agent with the libraries that it needs from this machine; empty when it cannot be had. */
async function agentEntries(directory: string): Promise<CpioEntry[]> {
  await mkdir(directory, { recursive: true });
  const download = await tryRun('apt-get', ['download', 'qemu-guest-agent'], { cwd: directory, timeoutMs: 120_000 });
  const deb = (await readdir(directory)).find((name) => name.endsWith('.deb'));
  let program = '/usr/sbin/qemu-ga';
  if (download !== undefined && deb !== undefined) {
    await run('dpkg', ['-x', join(directory, deb), directory]);
    program = join(directory, 'usr/sbin/qemu-ga');
    if (!existsSync(program)) program = join(directory, 'usr/bin/qemu-ga');
  }
  if (!existsSync(program)) return [];
  return (await linkedProgramEntries(program, 'agent')) ?? [];
}

function defaultCacheDirectory(): string {
  return join(import.meta.dirname, '..', '.cache', 'guest');
}
