// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { ApplianceError } from '../core/errors.ts';
import { rewriteDomain } from '../hypervisor/libvirt/domain-rewrite.ts';
import { readHostFacts } from '../hypervisor/libvirt/host-facts.ts';
import { type MachineDisk, machineFromXml } from '../hypervisor/libvirt/inventory.ts';
import type { DiskReplacement } from '../hypervisor/libvirt/rewrite-plan.ts';
import type { PointDisk } from '../repository/manifest.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import { checkIsLocal } from './local-hypervisor.ts';
import { checkMachineIsNew, checkMachineName } from './machine-name.ts';
import { checkAbsent, createWholeFile } from './new-file.ts';
import { DOMAIN_ATTACHMENT, findAttachment, NVRAM_ATTACHMENT } from './point-content.ts';
import { restoreDisk } from './restore-disk.ts';
import type { Restore, RestoredTarget, RestoreFormat, RestoreOutcome, RestoreRequest } from './restore-request.ts';

interface PlannedDisk {
  readonly disk: PointDisk;
  readonly path: string;
  readonly format: RestoreFormat;
}

/**
 * Restores a whole machine as a new one: its disks and firmware variables into new files, `<name>-<disk>.<format>` in
 * `directory` or beside the originals, and a definition with a new UUID and new MAC addresses. It is not started. After an
 * error none of the files is left, and nothing is defined.
 * @throws ApplianceError NOT_SUPPORTED, BAD_ARGUMENT, DOMAIN_EXISTS, TARGET_EXISTS, those of `restoreDisk` and of libvirt
 */
export async function restoreMachine(
  restore: Restore<RestoreRequest & { readonly as: string }>,
): Promise<RestoreOutcome> {
  const { parts, disks, request, context } = restore;
  const { point, connect } = request;
  const name = checkMachineName(request.as);
  checkIsLocal(connect);
  const definition = (await findAttachment(parts.repository, point, DOMAIN_ATTACHMENT))?.toString('utf8');
  if (definition === undefined) {
    throw new ApplianceError('NOT_SUPPORTED', `the point ${point.id} has no machine definition`, {
      hint: 'Restore its disks one by one with --to.',
    });
  }
  const connection = await parts.connectLibvirt(connect);
  const uuid = randomUUID();
  await checkMachineIsNew(connection, name, uuid);
  const plans = planDisks(request, name, definition);
  for (const { path } of plans) await checkAbsent(path);
  await using undo = new AsyncDisposableStack();
  const targets: RestoredTarget[] = [];
  for (const { disk, path, format } of plans) {
    targets.push(await restoreDisk({ parts, disks, disk, target: { kind: 'file', path, format }, context }));
    undo.defer(() => rm(path, { force: true }));
  }
  const nvramPath = await restoreNvram(parts, {
    request,
    path: join(dirname(plans[0]?.path ?? ''), `${name}-nvram.fd`),
    onNotice: context.onNotice,
  });
  if (nvramPath !== undefined) undo.defer(() => rm(nvramPath, { force: true }));
  const rewritten = rewriteDomain(
    definition,
    {
      name,
      uuid,
      keepsMacAddresses: false,
      keepsNetwork: true,
      disks: Object.fromEntries(plans.map((plan) => [plan.disk.name, replacementOf(plan)])),
      ...(nvramPath === undefined ? {} : { nvramPath }),
      marker: { purpose: 'restore', point: point.id, machine: point.machine.id, owner: parts.repository.config.id },
    },
    await readHostFacts(connection),
  );
  await connection.define(rewritten.xml);
  undo.move();
  const last = `${name} is defined and not started. Its guest has the host name and the addresses of the original.`;
  return { targets, machine: name, changes: [...rewritten.changes, last] };
}

function planDisks(request: RestoreRequest, name: string, definition: string): PlannedDisk[] {
  const { disks } = machineFromXml(definition, { state: 'shut-off' });
  return request.point.disks.map((disk) => {
    const original = disks.find(({ target }) => target === disk.name);
    const format = request.format ?? formatOf(original);
    const directory = request.directory ?? directoryOf(original);
    if (directory === undefined) {
      throw new ApplianceError('BAD_ARGUMENT', `${disk.name} was not a file, so there is no place beside it`, {
        hint: 'Give a directory for the restored disks.',
      });
    }
    return { disk, format, path: join(resolve(directory), `${name}-${disk.name}.${format}`) };
  });
}

function formatOf(original: MachineDisk | undefined): RestoreFormat {
  return original?.format === 'qcow2' || original?.format === 'vmdk' ? original.format : 'raw';
}

function directoryOf(original: MachineDisk | undefined): string | undefined {
  return original?.source?.kind === 'file' ? dirname(original.source.path) : undefined;
}

function replacementOf({ path, format }: PlannedDisk): DiskReplacement {
  return { kind: 'file', path, format };
}

async function restoreNvram(
  parts: RecoverParts,
  {
    request,
    path,
    onNotice,
  }: Pick<RecoverContext, 'onNotice'> & { readonly request: RestoreRequest; readonly path: string },
): Promise<string | undefined> {
  const bytes = await findAttachment(parts.repository, request.point, NVRAM_ATTACHMENT);
  if (bytes === undefined) return undefined;
  await createWholeFile(path, onNotice, (temporary) => writeFile(temporary, bytes, { mode: 0o600, flag: 'wx' }));
  return path;
}
