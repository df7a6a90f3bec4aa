// SPDX-License-Identifier: Apache-2.0
import { stat } from 'node:fs/promises';
import { writeDurably } from '../core/durable-file.ts';
import type { ErrorCode } from '../core/error-codes.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import { readHostFacts } from '../hypervisor/libvirt/host-facts.ts';
import { letQemuAppend, letQemuReach } from '../hypervisor/libvirt/qemu-access.ts';
import { bootDefinition } from './boot-definition.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import { DOMAIN_ATTACHMENT, findAttachment, NVRAM_ATTACHMENT } from './point-content.ts';
import type { SessionDisks } from './session-disks.ts';
import type { Session, SessionStore } from './session-store.ts';
import { adaptDefinition } from './standby/spare-definition.ts';

export interface SessionStart {
  readonly parts: RecoverParts;
  readonly store: SessionStore;
  readonly disks: SessionDisks;
  readonly connection: LibvirtConnection;
  readonly session: Session;
  readonly keepsNetwork: boolean;
  readonly logsConsole: boolean;
  readonly context: RecoverContext;
}

const STEPS = 3;
/** Reasons that a caller can act on as they are; everything else that goes wrong in a boot is BOOT_FAILED. */
const PLAIN_REASONS: readonly ErrorCode[] = [
  'ABORTED',
  'BOOT_FAILED',
  'CHUNK_MISSING',
  'DOMAIN_EXISTS',
  'DOMAIN_XML_INVALID',
  'LIBVIRT_CONNECTION_LOST',
  'MOMENT_NOT_FOUND',
  'NO_SPACE',
  'NOT_SUPPORTED',
  'OBJECT_NOT_FOUND',
  'QEMU_ACCESS',
  'REPOSITORY_CORRUPT',
  'WRITE_LOG_CORRUPT',
];
const DENIED = /permission denied|failed to connect|could not open/i;

/**
 * Serves the disks of a stored session, defines its domain and starts it. Settles with what had to be changed in the saved
 * definition. After an error the caller undoes whatever was made.
 */
export async function startSession(start: SessionStart): Promise<readonly string[]> {
  const { session, context, disks } = start;
  const step = (phase: string, done: number): void => {
    if (context.signal.aborted) {
      throw new ApplianceError('ABORTED', 'the boot was interrupted', { cause: context.signal.reason });
    }
    context.onProgress({ phase, done, total: STEPS, unit: 'items' });
  };
  step('serving the disks', 0);
  await disks.open(session, context);
  step('defining the machine', 1);
  const { domain, changes } = await define(start);
  step('starting the machine', 2);
  await (await disks.history(session)).log.begin();
  await domain.start();
  return changes;
}

/** What to tell the caller of a boot that failed. */
export function bootError(name: string, error: unknown): unknown {
  if (hasCode(error, ...PLAIN_REASONS) || !(error instanceof ApplianceError)) return error;
  const hint = DENIED.test(error.message)
    ? 'QEMU could not reach what it needs. Look for denials of AppArmor or SELinux (`dmesg`, `ausearch`), and let QEMU use the sockets of the service (docs/recovery.md).'
    : undefined;
  return new ApplianceError('BOOT_FAILED', `${name} cannot be started: ${error.message}`, {
    cause: error,
    ...(hint === undefined ? {} : { hint }),
  });
}

async function define(start: SessionStart): Promise<{ domain: Domain; changes: readonly string[] }> {
  const { parts, session, disks, connection } = start;
  const { point } = session;
  const definition = await findAttachment(parts.repository, point, DOMAIN_ATTACHMENT);
  if (definition === undefined) throw new ApplianceError('INTERNAL', 'a boot needs a definition');
  const socketPath = disks.socketPathOf(session);
  const nvramPath = await restoreNvram(start);
  const consolePath = start.logsConsole ? await makeConsole(start) : undefined;
  await letQemuReach({
    owner: session.qemuOwner,
    ownDirectories: [parts.runtimeDirectory, parts.stateDirectory],
    paths: [socketPath, nvramPath, consolePath].filter((path) => path !== undefined),
  });
  const plan = {
    name: session.name,
    uuid: session.machineId,
    keepsIdentity: session.keepsIdentity || session.spare !== undefined,
    keepsNetwork: start.keepsNetwork,
    exports: disks.names(session),
    socketPath,
    nvramPath,
    consolePath,
    point: point.id,
    machine: point.machine.id,
    owner: parts.repository.config.id,
  };
  const saved = definition.toString('utf8');
  const adapted = session.spare === undefined ? { xml: saved, changes: [] } : adaptDefinition(saved, session.spare);
  const { xml, changes } = bootDefinition(adapted.xml, plan, await readHostFacts(connection));
  return { domain: await connection.define(xml), changes: [...adapted.changes, ...changes] };
}

/** The variables of the firmware, as saved or as the session left them; undefined when none were saved. */
async function restoreNvram({ parts, store, session }: SessionStart): Promise<string | undefined> {
  const path = store.nvramPathOf(session);
  if (session.phase === 'resuming' && (await isFile(path))) return path;
  const bytes = await findAttachment(parts.repository, session.point, NVRAM_ATTACHMENT);
  if (bytes === undefined) return undefined;
  await writeDurably(path, bytes);
  return path;
}

/** An empty file that QEMU may add to. */
async function makeConsole({ store, session }: SessionStart): Promise<string> {
  const path = store.consolePathOf(session);
  await writeDurably(path, Buffer.alloc(0));
  await letQemuAppend(path, session.qemuOwner);
  return path;
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}
