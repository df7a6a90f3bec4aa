// SPDX-License-Identifier: Apache-2.0
import { basename, dirname } from 'node:path';
import type { DirectoryEntry, FileStat, FileSystem, OpenFile, OpenMode } from '../../appliance/core/file-system.ts';
import { systemError } from './faulty-file-system.ts';

const SECTOR_BYTES = 512;

type Change =
  | { readonly kind: 'write'; readonly position: number; readonly data: Buffer }
  | { readonly kind: 'truncate'; readonly sizeBytes: number };

interface FileNode {
  readonly kind: 'file';
  content: Content;
  durable: Content;
  pending: Change[];
}

interface DirectoryNode {
  readonly kind: 'directory';
  names: Map<string, Node>;
  durable: Map<string, Node>;
  /** Changes of names since the last sync of the directory; undefined removes the name. */
  pending: { readonly name: string; readonly node: Node | undefined }[][];
}

type Node = FileNode | DirectoryNode;

/**
 * An in-memory file system that knows what is durable: file content after `syncData`, names after `syncDirectory` of
 * their directory. `crash(seed)` gives a file system with one state that a power failure may leave: the durable state
 * plus an arbitrary part of what was not synced: names in any subset (each rename or link whole or not at all), writes
 * dropped, applied, or torn into sectors of 512 bytes. Same seed, same state. The old instance stays usable.
 */
export class CrashingFileSystem implements FileSystem {
  private root: DirectoryNode = emptyDirectory();
  /** Operations that changed something so far; crash points for tests that try each one. */
  changes = 0;

  async open(path: string, mode: OpenMode): Promise<OpenFile> {
    const directory = this.directoryOf(path, 'open');
    let node = directory.names.get(basename(path));
    if (node === undefined) {
      if (mode === 'read' || mode === 'update') throw systemError('ENOENT', 'open', path);
      node = { kind: 'file', content: new Content(), durable: new Content(), pending: [] };
      this.changeNames(directory, [{ name: basename(path), node }]);
    } else if (mode === 'create') throw systemError('EEXIST', 'open', path);
    if (node.kind !== 'file') throw systemError('EISDIR', 'open', path);
    return new MemoryFile(node, this);
  }

  async rename(from: string, to: string): Promise<void> {
    const source = this.directoryOf(from, 'rename');
    const target = this.directoryOf(to, 'rename');
    const node = source.names.get(basename(from));
    if (node === undefined) throw systemError('ENOENT', 'rename', from);
    const placed = { name: basename(to), node };
    const removed = { name: basename(from), node: undefined };
    if (source === target) this.changeNames(source, [placed, removed]);
    else {
      this.changeNames(target, [placed]);
      this.changeNames(source, [removed]);
    }
  }

  async link(from: string, to: string): Promise<void> {
    const node = this.directoryOf(from, 'link').names.get(basename(from));
    if (node === undefined) throw systemError('ENOENT', 'link', from);
    const target = this.directoryOf(to, 'link');
    if (target.names.has(basename(to))) throw systemError('EEXIST', 'link', to);
    this.changeNames(target, [{ name: basename(to), node }]);
  }

  async unlink(path: string): Promise<void> {
    const directory = this.directoryOf(path, 'unlink');
    const node = directory.names.get(basename(path));
    if (node === undefined) throw systemError('ENOENT', 'unlink', path);
    if (node.kind !== 'file') throw systemError('EISDIR', 'unlink', path);
    this.changeNames(directory, [{ name: basename(path), node: undefined }]);
  }

  async stat(path: string): Promise<FileStat | undefined> {
    const node = this.find(path);
    if (node === undefined) return undefined;
    return { kind: node.kind, sizeBytes: node.kind === 'file' ? node.content.sizeBytes : 0 };
  }

  async readDirectory(path: string): Promise<DirectoryEntry[]> {
    const node = this.find(path);
    if (node === undefined) throw systemError('ENOENT', 'readDirectory', path);
    if (node.kind !== 'directory') throw systemError('ENOTDIR', 'readDirectory', path);
    const entries = [...node.names].map(([name, child]) => ({ name, kind: child.kind }));
    return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async makeDirectory(path: string): Promise<void> {
    const parent = this.directoryOf(path, 'makeDirectory');
    if (parent.names.has(basename(path))) throw systemError('EEXIST', 'makeDirectory', path);
    this.changeNames(parent, [{ name: basename(path), node: emptyDirectory() }]);
  }

  async removeDirectory(path: string): Promise<void> {
    const node = this.find(path);
    if (node === undefined) throw systemError('ENOENT', 'removeDirectory', path);
    if (node.kind !== 'directory') throw systemError('ENOTDIR', 'removeDirectory', path);
    if (node.names.size > 0) throw systemError('ENOTEMPTY', 'removeDirectory', path);
    this.changeNames(this.directoryOf(path, 'removeDirectory'), [{ name: basename(path), node: undefined }]);
  }

  async syncDirectory(path: string): Promise<void> {
    const node = this.find(path);
    if (node?.kind !== 'directory') throw systemError('ENOENT', 'syncDirectory', path);
    this.changes += 1;
    node.durable = new Map(node.names);
    node.pending = [];
  }

  /** One state that a power failure at this moment may leave. Nothing of it is pending. */
  crash(seed: number): CrashingFileSystem {
    const random = randomSource(seed);
    const survivor = new CrashingFileSystem();
    survivor.root = survivingDirectory(this.root, random, new Map());
    return survivor;
  }

  /** A copy with everything that was written, as after the death of the process alone. */
  survivingProcess(): CrashingFileSystem {
    const survivor = new CrashingFileSystem();
    survivor.root = copyDirectory(this.root, new Map());
    return survivor;
  }

  /** The bytes of a file as they are now. */
  contentOf(path: string): Buffer {
    const node = this.find(path);
    if (node?.kind !== 'file') throw systemError('ENOENT', 'contentOf', path);
    return node.content.slice();
  }

  private find(path: string): Node | undefined {
    let node: Node | undefined = this.root;
    for (const name of path.split('/').filter((part) => part !== '')) {
      if (node?.kind !== 'directory') return undefined;
      node = node.names.get(name);
    }
    return node;
  }

  private directoryOf(path: string, operation: string): DirectoryNode {
    const node = this.find(dirname(path));
    if (node === undefined) throw systemError('ENOENT', operation, path);
    if (node.kind !== 'directory') throw systemError('ENOTDIR', operation, path);
    return node;
  }

  private changeNames(
    directory: DirectoryNode,
    names: readonly { readonly name: string; readonly node: Node | undefined }[],
  ): void {
    this.changes += 1;
    applyNames(directory.names, names);
    directory.pending.push([...names]);
  }
}

class MemoryFile implements OpenFile {
  readonly fd: number = -1;
  private readonly node: FileNode;
  private readonly owner: CrashingFileSystem;
  private isClosed = false;

  constructor(node: FileNode, owner: CrashingFileSystem) {
    this.node = node;
    this.owner = owner;
  }

  async read(into: Buffer, position: number): Promise<number> {
    this.check();
    return this.node.content.read(into, position);
  }

  async write(parts: Buffer | readonly Buffer[], position: number): Promise<void> {
    this.check();
    this.change({ kind: 'write', position, data: Buffer.isBuffer(parts) ? Buffer.from(parts) : Buffer.concat(parts) });
  }

  writeNow(data: Buffer, position: number): boolean {
    this.check();
    this.change({ kind: 'write', position, data: Buffer.from(data) });
    return true;
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.check();
    this.change({ kind: 'truncate', sizeBytes });
  }

  async syncData(): Promise<void> {
    this.check();
    this.owner.changes += 1;
    for (const change of this.node.pending) this.node.durable.apply(change);
    this.node.pending = [];
  }

  async sizeBytes(): Promise<number> {
    this.check();
    return this.node.content.sizeBytes;
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }

  private change(change: Change): void {
    this.owner.changes += 1;
    this.node.content.apply(change);
    this.node.pending.push(change);
  }

  private check(): void {
    if (this.isClosed) throw systemError('EBADF', 'use', 'a closed file');
  }
}

/** Bytes that grow. */
class Content {
  private buffer: Buffer = Buffer.alloc(0);
  sizeBytes = 0;

  read(into: Buffer, position: number): number {
    const count = Math.max(0, Math.min(into.length, this.sizeBytes - position));
    this.buffer.copy(into, 0, position, position + count);
    return count;
  }

  apply(change: Change): void {
    if (change.kind === 'truncate') {
      this.grow(change.sizeBytes);
      if (change.sizeBytes < this.sizeBytes) this.buffer.fill(0, change.sizeBytes, this.sizeBytes);
      this.sizeBytes = change.sizeBytes;
      return;
    }
    const end = change.position + change.data.length;
    this.grow(end);
    change.data.copy(this.buffer, change.position);
    this.sizeBytes = Math.max(this.sizeBytes, end);
  }

  slice(): Buffer {
    return Buffer.from(this.buffer.subarray(0, this.sizeBytes));
  }

  copy(): Content {
    const copy = new Content();
    copy.buffer = this.slice();
    copy.sizeBytes = this.sizeBytes;
    return copy;
  }

  private grow(sizeBytes: number): void {
    if (sizeBytes <= this.buffer.length) return;
    const larger = Buffer.alloc(Math.max(sizeBytes, this.buffer.length * 2, 4096));
    this.buffer.copy(larger, 0, 0, this.sizeBytes);
    this.buffer = larger;
  }
}

function emptyDirectory(): DirectoryNode {
  return { kind: 'directory', names: new Map(), durable: new Map(), pending: [] };
}

function applyNames(
  names: Map<string, Node>,
  changes: readonly { readonly name: string; readonly node: Node | undefined }[],
): void {
  for (const { name, node } of changes) {
    if (node === undefined) names.delete(name);
    else names.set(name, node);
  }
}

function survivingDirectory(directory: DirectoryNode, random: () => number, seen: Map<Node, Node>): DirectoryNode {
  const names = new Map(directory.durable);
  // Half of the time names reach the disk in order, as journalling file systems do it, otherwise in any subset.
  const inOrder = random() < 0.5;
  const kept = Math.floor(random() * (directory.pending.length + 1));
  for (const [index, change] of directory.pending.entries()) {
    if (inOrder ? index < kept : random() < 0.5) applyNames(names, change);
  }
  const survivor = emptyDirectory();
  for (const [name, node] of names) {
    const copy = seen.get(node) ?? survivingNode(node, random, seen);
    seen.set(node, copy);
    survivor.names.set(name, copy);
  }
  survivor.durable = new Map(survivor.names);
  return survivor;
}

function survivingNode(node: Node, random: () => number, seen: Map<Node, Node>): Node {
  if (node.kind === 'directory') return survivingDirectory(node, random, seen);
  const content = node.durable.copy();
  const fate = random();
  for (const change of node.pending) {
    if (fate < 0.2) break;
    if (fate > 0.8 || random() < 0.5) content.apply(change);
    else if (change.kind === 'write' && random() < 0.7) applyTorn(content, change, random);
  }
  return { kind: 'file', content, durable: content.copy(), pending: [] };
}

/** Some sectors of a write reach the disk; the file may have grown to its whole length all the same. */
function applyTorn(content: Content, change: Change & { kind: 'write' }, random: () => number): void {
  const end = change.position + change.data.length;
  if (random() < 0.5 && end > content.sizeBytes) content.apply({ kind: 'truncate', sizeBytes: end });
  for (let position = change.position; position < end; ) {
    const next = Math.min(end, (Math.floor(position / SECTOR_BYTES) + 1) * SECTOR_BYTES);
    if (random() < 0.5) {
      const data = change.data.subarray(position - change.position, next - change.position);
      content.apply({ kind: 'write', position, data });
    }
    position = next;
  }
}

function copyDirectory(directory: DirectoryNode, seen: Map<Node, Node>): DirectoryNode {
  const copy = emptyDirectory();
  for (const [name, node] of directory.names) {
    let child = seen.get(node);
    if (child === undefined) {
      child = node.kind === 'directory' ? copyDirectory(node, seen) : copyFile(node);
      seen.set(node, child);
    }
    copy.names.set(name, child);
  }
  copy.durable = new Map(copy.names);
  return copy;
}

function copyFile(node: FileNode): FileNode {
  return { kind: 'file', content: node.content.copy(), durable: node.content.copy(), pending: [] };
}

/** mulberry32: small, seeded, good enough to choose fates. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
