// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import type { RecoverContext, RecoverParts, RecoverProgress } from '../../appliance/recover/context.ts';
import type { JournalSource } from '../../appliance/recover/state-disks.ts';
import { type FixtureOptions, FixtureRepository } from '../support/fixture-repository.ts';
import type { TestContext } from '../support/test-scope.ts';

const MIB = 1024 * 1024;

/** A repository, an NBD server on a unix socket, and what recovery needs besides. */
export interface Rig {
  readonly directory: string;
  readonly fixture: FixtureRepository;
  readonly parts: RecoverParts;
}

export async function makeRig(t: TestContext, options: FixtureOptions = {}): Promise<Rig> {
  const directory = await t.tempDir();
  const fixture = t.use(await FixtureRepository.create(directory, options));
  const nbd = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: join(directory, 'nbd.sock') } }));
  return { directory, fixture, parts: partsOf(directory, fixture, nbd) };
}

export function partsOf(directory: string, fixture: FixtureRepository, nbd: NbdServer): RecoverParts {
  return {
    repository: fixture.repository,
    catalog: fixture.catalog,
    journals: noJournals,
    nbd,
    clock: systemClock,
    runtimeDirectory: directory,
    stateDirectory: directory,
    connectLibvirt: (uri) => LibvirtConnection.open(uri),
    freezeMarker: noFreezes,
  };
}

/** For tests in which nobody freezes. */
export const noFreezes: RecoverParts['freezeMarker'] = () => ({
  set: () => Promise.resolve(),
  clear: () => Promise.resolve(),
});

/** For tests without moments. */
export const noJournals: JournalSource = {
  openLayer: () => Promise.reject(new Error('there is no journal here')),
};

/** A context that keeps what it is told. */
export class Watched implements RecoverContext {
  readonly abort: AbortController = new AbortController();
  readonly progress: RecoverProgress[] = [];
  readonly notices: string[] = [];
  /** Called with each progress. */
  onEach: (progress: RecoverProgress) => void = () => undefined;

  get signal(): AbortSignal {
    return this.abort.signal;
  }

  readonly onProgress = (progress: RecoverProgress): void => {
    this.progress.push(progress);
    this.onEach(progress);
  };

  readonly onNotice = (sentence: string): void => {
    this.notices.push(sentence);
  };
}

/** A disk with data at its start, a hole in the middle, a lone sector, and data up to its end. */
export async function patternedDisk(sizeBytes: number, seed: number): Promise<BlockDevice> {
  const device = memoryDevice({ sizeBytes });
  await device.write(0, noise(MIB + 4096, seed));
  await device.write(sizeBytes - 700, noise(700, seed + 1));
  await device.write(Math.floor(sizeBytes / 2), noise(512, seed + 2));
  return device;
}

/** Bytes that look random and are the same for the same seed (xorshift32). */
export function noise(length: number, seed: number): Buffer {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed * 2654435761 + 1;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  return Buffer.from(words.buffer, 0, length);
}

export async function readAll(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(device.sizeBytes);
  const { maximumBytes } = device.limits;
  for (let at = 0; at < bytes.length; at += maximumBytes) await device.read(at, bytes.subarray(at, at + maximumBytes));
  return bytes;
}

/** Standard output of a program that must succeed. */
export async function tool(command: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(command, [...args], { maxBuffer: 64 * MIB });
  return stdout;
}
