// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { type MachineId, parseMachineId } from '../core/ids.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import { type Endpoint, parseEndpoint } from '../hypervisor/libvirt/endpoint.ts';
import type { Machine } from '../hypervisor/libvirt/inventory.ts';
import { readMachine } from '../hypervisor/libvirt/read-machine.ts';
import { OwnCheckpoints } from './checkpoints.ts';
import { imageMarks } from './image-marks.ts';
import { openLiveSource } from './live-source.ts';
import { openOfflineSource } from './offline-source.ts';
import { type DiskPlan, planDisks } from './plan-disks.ts';
import type { FreezeMarker, QuiesceRule } from './quiesce.ts';
import type { BackupSource, PreviousState, SourceAttachment } from './source.ts';

export interface LibvirtSourceOptions {
  readonly connection: LibvirtConnection;
  readonly domain: Domain;
  readonly previous: PreviousState | undefined;
  readonly repositoryId: string;
  readonly isFullScanRequested: boolean;
  /** Own checkpoints that somebody else continues from: they stay. */
  readonly keptCheckpoints?: readonly string[];
  /** `never` leaves the guest's agent alone. Default: `try`. */
  readonly quiesce?: QuiesceRule;
  /** False leaves the machine's definition and firmware variables out. Default: true. */
  readonly hasAttachments?: boolean;
  /** See `ReadMachineOptions`; for sources that are opened every few seconds. */
  readonly knownLevels?: Map<string, string>;
  /** An existing directory for the job's socket; its path is short. */
  readonly runtimeDirectory: string;
  /** An existing directory for scratch files of disks that do not lie in files. */
  readonly scratchDirectory: string;
  readonly freezeMarker: FreezeMarker;
  /** Hears, once, why the end of the backup job takes long. */
  readonly onWait?: (reason: string) => void;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** What both kinds of sources are made from. */
export interface PreparedMachine {
  readonly options: LibvirtSourceOptions;
  /** Where the hypervisor is: paths of another host mean nothing here. */
  readonly endpoint: Endpoint;
  readonly machine: Machine;
  readonly machineId: MachineId;
  readonly checkpoints: OwnCheckpoints;
  readonly plans: readonly DiskPlan[];
  readonly skipped: readonly { readonly name: string; readonly reason: string }[];
  readonly attachments: readonly SourceAttachment[];
  readonly notices: string[];
  /** The checkpoint that the previous point left, if it can be continued from. */
  readonly baseName: string | undefined;
}

const NVRAM_READ_ATTEMPTS = 5;

/**
 * A machine under libvirt as a source: a running one through a pull backup job over all of its disks at one moment, a
 * shut-off one from its images. @throws ApplianceError NO_PROTECTABLE_DISK, DOMAIN_BUSY, and libvirt's
 */
export async function openLibvirtSource(options: LibvirtSourceOptions): Promise<BackupSource> {
  const endpoint = parseEndpoint(options.connection.uri);
  const machine = await readMachine(options.connection, options.domain, {
    signal: options.signal,
    ...(options.knownLevels === undefined ? {} : { knownLevels: options.knownLevels }),
  });
  const checkpoints = new OwnCheckpoints(options.domain, options.repositoryId, options.keptCheckpoints);
  const base = await findBase(machine, checkpoints, options.previous);
  const plans = planDisks({
    machine,
    previous: options.previous,
    base,
    isFullScanRequested: options.isFullScanRequested,
  });
  const skipped = [
    ...machine.disks.flatMap(({ target, protection }) =>
      protection.kind === 'none' ? [{ name: target, reason: protection.reason }] : [],
    ),
    ...machine.unprotectedDevices.map(({ device, reason }) => ({ name: device, reason })),
  ];
  if (plans.length === 0) {
    throw new ApplianceError('NO_PROTECTABLE_DISK', `no disk of ${machine.name} can be backed up`, {
      details: { skipped },
    });
  }
  const notices: string[] = [];
  const prepared: PreparedMachine = {
    options,
    endpoint,
    machine,
    machineId: parseMachineId(machine.id),
    checkpoints,
    plans,
    skipped,
    attachments:
      options.hasAttachments === false ? [] : await readAttachments(options.domain, { machine, endpoint, notices }),
    notices,
    baseName: 'name' in base ? base.name : undefined,
  };
  if (machine.state !== 'shut-off' && machine.state !== 'crashed') return openLiveSource(prepared);
  if (endpoint.kind === 'local') return openOfflineSource(prepared);
  throw new ApplianceError('NOT_SUPPORTED', `${machine.name} is shut off, and its disks lie on another host`, {
    hint: 'Start the machine: QEMU then reads its disks for the backup. Or run the appliance on that host.',
  });
}

async function findBase(
  machine: Machine,
  checkpoints: OwnCheckpoints,
  previous: PreviousState | undefined,
): Promise<{ readonly name: string } | { readonly missing: string }> {
  const { kind, checkpoint: name, images } = previous?.tracker ?? {};
  if (kind === 'offline-image' && images !== (await imageMarks(machine))) {
    return {
      missing: 'the last recovery point was taken from the image of the shut-off machine, and the image changed since',
    };
  }
  if ((kind !== 'libvirt-checkpoint' && kind !== 'offline-image') || name === undefined) {
    return { missing: 'the last recovery point left no checkpoint to continue from' };
  }
  if ((await checkpoints.names()).includes(name)) return { name };
  return { missing: `checkpoint ${name} is gone: the machine was redefined, or somebody removed it` };
}

/** The machine's definition and firmware variables. What cannot be saved is said. */
export async function readAttachments(
  domain: Domain,
  { machine, endpoint, notices }: Pick<PreparedMachine, 'machine' | 'endpoint' | 'notices'>,
): Promise<SourceAttachment[]> {
  const definition = await domain.xml({ isSecure: true, isInactive: true });
  const attachments: SourceAttachment[] = [{ name: 'domain.xml', bytes: Buffer.from(definition, 'utf8') }];
  const { nvramPath } = machine.firmware;
  if (nvramPath !== null) {
    // A file of the same name on this host would be another machine's.
    const nvram = endpoint.kind === 'local' ? await readStable(nvramPath) : undefined;
    if (nvram === undefined)
      notices.push(`the firmware variables in ${nvramPath} could not be read and are not in the point`);
    else attachments.push({ name: 'nvram', bytes: nvram });
  }
  if (machine.tpm !== null && machine.tpm.backend === 'emulator') {
    notices.push(
      'the state of the emulated TPM is not in the point: keep recovery keys for disks that are sealed to it',
    );
  }
  return attachments;
}

/** A small file that a running machine may be writing: read until two readings agree. */
async function readStable(path: string): Promise<Buffer | undefined> {
  try {
    let before = await readFile(path);
    for (let attempt = 0; attempt < NVRAM_READ_ATTEMPTS; attempt++) {
      const now = await readFile(path);
      if (now.equals(before)) return now;
      before = now;
    }
    return undefined;
  } catch (error) {
    if (error instanceof Error && !hasCode(error, 'INTERNAL')) return undefined;
    throw error;
  }
}
