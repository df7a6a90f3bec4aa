// SPDX-License-Identifier: Apache-2.0
import { machineFromXml } from '../hypervisor/libvirt/inventory.ts';
import { type DiskJob, readDiskJobs } from '../hypervisor/libvirt/mirror-xml.ts';
import type { DomainState, LifecycleEvent } from '../hypervisor/libvirt/protocol.ts';
import { attributeOf, parseXml } from '../hypervisor/libvirt/xml.ts';
import { identityOf, sourceText } from './plan-disks.ts';

/** What has happened to a machine; `detail` is libvirt's word for it. */
export type MachineFact =
  | { readonly kind: 'started' | 'shut-off' | 'crashed' | 'paused' | 'resumed'; readonly detail: string }
  | { readonly kind: 'rebooted' | 'migrated-away' | 'reverted' | 'undefined' | 'connection-back' }
  | { readonly kind: 'disk-added' | 'disk-removed' | 'disk-replaced'; readonly disk: string }
  | {
      readonly kind: 'disk-resized';
      readonly disk: string;
      readonly beforeBytes: number;
      readonly sizeBytes: number;
    }
  /** Somebody put a new image over the disk's; `source` is where the guest writes now. */
  | { readonly kind: 'snapshot-made'; readonly disk: string; readonly source: string }
  | { readonly kind: 'job-started' | 'job-ready'; readonly disk: string; readonly job: string }
  /** `how`: `completed`, `failed`, `cancelled`, or `unknown` when nobody saw it. */
  | { readonly kind: 'job-ended'; readonly disk: string; readonly how: string }
  | { readonly kind: 'connection-lost'; readonly reason: string };

/** `stopping`: the guest is down and QEMU is not yet gone. */
export type Power = 'running' | 'paused' | 'stopping' | 'off';

export interface ViewedDisk {
  /** Target, e.g. `vda`. */
  readonly name: string;
  /** Null when libvirt cannot tell, which happens with machines that are off. */
  readonly sizeBytes: number | null;
  readonly identity: Readonly<Record<string, string>>;
  readonly source: string;
  /** Sources of the images beneath it, nearest first; only of running machines. */
  readonly backing: readonly string[];
}

/** A machine at one look. Only disks that can be protected. */
export interface MachineView {
  readonly power: Power;
  /** Why it is off, in words. */
  readonly reason: string;
  /** Another one after each start. */
  readonly runId: string | undefined;
  readonly disks: readonly ViewedDisk[];
  readonly jobs: readonly DiskJob[];
}

const FOLLOW = 'where it was migrated to, `understudy protect` with the --connect of that place goes on';

export const NO_MACHINE: MachineView = {
  power: 'off',
  reason: `the machine is not defined any more; ${FOLLOW}`,
  runId: undefined,
  disks: [],
  jobs: [],
};

const SHUT_OFF = 'the machine is shut off';
/** virDomainShutoffReason, by number. */
const OFF_REASONS: readonly string[] = [
  SHUT_OFF,
  SHUT_OFF,
  'the machine was switched off',
  'the machine crashed',
  `the machine was migrated to another host; ${FOLLOW}`,
  'the machine was saved to a file',
  'QEMU of the machine ended',
  'the machine was reverted to a snapshot',
  'the machine was lost while libvirt was restarted',
];

/** Targets of the disks that can be protected, whose sizes a view needs. Throws DOMAIN_XML_INVALID. */
export function watchedTargets(xml: string): string[] {
  return machineFromXml(xml, { state: 'running' })
    .disks.filter(({ protection }) => protection.kind !== 'none')
    .map(({ target }) => target);
}

export function readView(
  xml: string,
  { state, reason }: DomainState,
  sizes: Readonly<Record<string, number>>,
): MachineView {
  const machine = machineFromXml(xml, { state, sizes });
  const power = powerOf(state);
  const disks = machine.disks.filter(({ protection }) => protection.kind !== 'none');
  return {
    power,
    reason: state === 'crashed' ? 'the machine crashed' : power === 'off' ? (OFF_REASONS[reason] ?? SHUT_OFF) : '',
    runId: attributeOf(parseXml(xml), 'id'),
    disks: disks.map((disk) => ({
      name: disk.target,
      sizeBytes: disk.sizeBytes,
      identity: identityOf(disk),
      source: sourceText(disk.source),
      backing: disk.backingChain.map(({ source }) => sourceText(source)),
    })),
    jobs: readDiskJobs(xml),
  };
}

/** What the event itself says; undefined for what only a look at the machine tells. */
export function factOfLifecycle({ event, detail }: LifecycleEvent): MachineFact | undefined {
  if (detail === 'from-snapshot') return { kind: 'reverted' };
  switch (event) {
    case 'started':
      return { kind: 'started', detail };
    case 'stopped':
      if (detail === 'migrated') return { kind: 'migrated-away' };
      return { kind: detail === 'crashed' || detail === 'failed' ? 'crashed' : 'shut-off', detail };
    case 'crashed':
      return { kind: 'crashed', detail };
    case 'suspended':
      return { kind: 'paused', detail };
    case 'resumed':
      return { kind: 'resumed', detail };
    case 'undefined':
      return detail === 'removed' ? { kind: 'undefined' } : undefined;
    case 'defined':
    case 'shutdown':
    case 'pm-suspended':
      return undefined;
  }
}

const POWER_AFTER: Readonly<Partial<Record<MachineFact['kind'], Power>>> = {
  started: 'running',
  resumed: 'running',
  paused: 'paused',
  'shut-off': 'off',
  crashed: 'off',
  'migrated-away': 'off',
};

/** The power after a fact; undefined when it does not tell. */
export function powerAfter({ kind }: MachineFact): Power | undefined {
  return POWER_AFTER[kind];
}

/** What happened between two looks and no event has told. */
export function factsBetween(before: MachineView, now: MachineView): MachineFact[] {
  const facts = powerFacts(before, now);
  // Of a machine that is off the images are known, and nothing else.
  for (const disk of now.disks) {
    const old = before.disks.find(({ name }) => name === disk.name);
    facts.push(...(old === undefined ? [{ kind: 'disk-added', disk: disk.name } as const] : diskFacts(old, disk)));
  }
  for (const { name } of before.disks) {
    if (now !== NO_MACHINE && !now.disks.some((disk) => disk.name === name)) {
      facts.push({ kind: 'disk-removed', disk: name });
    }
  }
  return [...facts, ...jobFacts(before, now)];
}

function powerFacts(before: MachineView, now: MachineView): MachineFact[] {
  const facts: MachineFact[] = [];
  const wasUp = before.power !== 'off';
  const isUp = now.power !== 'off';
  const isOtherRun = before.runId !== undefined && now.runId !== undefined && before.runId !== now.runId;
  if (wasUp && (!isUp || isOtherRun)) {
    const isCrash = now.reason.includes('crashed') || now.reason.includes('QEMU');
    facts.push({ kind: isCrash ? 'crashed' : 'shut-off', detail: 'unknown' });
  }
  if (isUp && (!wasUp || isOtherRun)) facts.push({ kind: 'started', detail: 'unknown' });
  if (now.power === 'paused' && before.power !== 'paused') facts.push({ kind: 'paused', detail: 'unknown' });
  if (now.power === 'running' && before.power === 'paused') facts.push({ kind: 'resumed', detail: 'unknown' });
  if (now === NO_MACHINE && before !== NO_MACHINE) facts.push({ kind: 'undefined' });
  return facts;
}

function diskFacts(before: ViewedDisk, now: ViewedDisk): MachineFact[] {
  const disk = now.name;
  const facts: MachineFact[] = [];
  if (now.source !== before.source) {
    const isSnapshot = now.backing.includes(before.source);
    facts.push(isSnapshot ? { kind: 'snapshot-made', disk, source: now.source } : { kind: 'disk-replaced', disk });
  } else if (Object.entries(now.identity).some(([key, value]) => before.identity[key] !== value)) {
    facts.push({ kind: 'disk-replaced', disk });
  }
  const { sizeBytes: beforeBytes } = before;
  if (beforeBytes !== null && now.sizeBytes !== null && beforeBytes !== now.sizeBytes) {
    facts.push({ kind: 'disk-resized', disk, beforeBytes, sizeBytes: now.sizeBytes });
  }
  return facts;
}

function jobFacts(before: MachineView, now: MachineView): MachineFact[] {
  const facts: MachineFact[] = [];
  for (const { disk } of before.jobs) {
    if (!now.jobs.some((job) => job.disk === disk)) facts.push({ kind: 'job-ended', disk, how: 'unknown' });
  }
  for (const job of now.jobs) {
    const old = before.jobs.find(({ disk }) => disk === job.disk);
    if (old === undefined) facts.push({ kind: 'job-started', disk: job.disk, job: job.kind });
    if (job.ready === 'yes' && old?.ready !== 'yes') facts.push({ kind: 'job-ready', disk: job.disk, job: job.kind });
  }
  return facts;
}

function powerOf(state: DomainState['state']): Power {
  switch (state) {
    case 'running':
    case 'blocked':
    case 'pm-suspended':
    case 'no-state':
      return 'running';
    case 'paused':
      return 'paused';
    case 'shutting-down':
      return 'stopping';
    case 'shut-off':
    case 'crashed':
      return 'off';
  }
}
