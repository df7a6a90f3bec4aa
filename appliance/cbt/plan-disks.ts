// SPDX-License-Identifier: Apache-2.0
import type { DiskSource, Machine, MachineDisk } from '../hypervisor/libvirt/inventory.ts';
import type { PreviousState, TrackedKind } from './source.ts';

/** What is to be done with one disk, and why. */
export interface DiskPlan {
  readonly disk: MachineDisk;
  readonly kind: TrackedKind;
  readonly reason: string;
  readonly identity: Readonly<Record<string, string>>;
}

export interface PlanInput {
  readonly machine: Machine;
  readonly previous: PreviousState | undefined;
  /** The position of the previous point that can be continued from; undefined with the reason why there is none. */
  readonly base: { readonly name: string } | { readonly missing: string };
  readonly isFullScanRequested: boolean;
}

/**
 * Decides for each protectable disk how its blocks are found. Incremental needs proof on every count: a base, the same
 * disk, the same size, an image that keeps a bitmap; every doubt means reading everything, with the reason.
 */
export function planDisks(input: PlanInput): DiskPlan[] {
  return input.machine.disks
    .filter((disk) => disk.protection.kind !== 'none')
    .map((disk) => ({ disk, identity: identityOf(disk), ...decide(disk, input) }));
}

function decide(disk: MachineDisk, input: PlanInput): { readonly kind: TrackedKind; readonly reason: string } {
  const { previous, base } = input;
  if (previous === undefined) return { kind: 'full', reason: 'first backup' };
  const before = previous.disks.find(({ name }) => name === disk.target);
  if (before === undefined) return { kind: 'full', reason: 'the disk is new since the last recovery point' };
  const doubt = doubtAbout(disk, before, input);
  if (doubt !== undefined) return { kind: 'full-scan', reason: doubt };
  const name = 'name' in base ? base.name : '';
  return { kind: 'incremental', reason: `changed blocks since checkpoint ${name}` };
}

function doubtAbout(disk: MachineDisk, before: PreviousState['disks'][number], input: PlanInput): string | undefined {
  if (input.isFullScanRequested) return 'a full scan was asked for';
  if (disk.protection.kind === 'full-scan') return disk.protection.reason;
  if (disk.sizeBytes !== before.sizeBytes) {
    return `the disk was resized from ${before.sizeBytes} to ${disk.sizeBytes ?? 'an unknown number of'} bytes`;
  }
  const changed = changedIdentity(identityOf(disk), before.identity);
  if (changed !== undefined) return `the disk was replaced: its ${changed}`;
  return 'missing' in input.base ? input.base.missing : undefined;
}

/** What recognises a disk: where it lies, what it is, what the guest sees of it. The target name alone proves nothing. */
export function identityOf(disk: MachineDisk): Record<string, string> {
  const identity: Record<string, string> = { source: sourceText(disk.source), format: disk.format };
  if (disk.serial !== null) identity['serial'] = disk.serial;
  if (disk.wwn !== null) identity['wwn'] = disk.wwn;
  return identity;
}

function changedIdentity(
  now: Readonly<Record<string, string>>,
  before: Readonly<Record<string, string>>,
): string | undefined {
  for (const key of new Set([...Object.keys(now), ...Object.keys(before)])) {
    if (now[key] !== before[key]) return `${key} was ${before[key] ?? 'not set'} and is ${now[key] ?? 'not set'}`;
  }
  return undefined;
}

export function sourceText(source: DiskSource | null): string {
  switch (source?.kind) {
    case undefined:
      return 'empty';
    case 'file':
    case 'block':
      return `${source.kind}:${source.path}`;
    case 'network':
      return `${source.protocol}:${source.name}@${source.hosts.join(',')}`;
    case 'volume':
      return `volume:${source.pool}/${source.volume}`;
    case 'other':
      return `other:${source.type}`;
  }
}

/** Where the image lies on this host, if it lies on this host. */
export function localPath(source: DiskSource | null): string | undefined {
  switch (source?.kind) {
    case 'file':
    case 'block':
      return source.path;
    case 'volume':
      return source.path ?? undefined;
    case 'network':
    case 'other':
    case undefined:
      return undefined;
  }
}
