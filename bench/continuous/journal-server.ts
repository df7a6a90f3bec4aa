// SPDX-License-Identifier: Apache-2.0
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { parseMachineId } from '../../appliance/core/ids.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { AppendLatency } from '../../appliance/protect/continuous/append-latency.ts';
import { JournalTarget } from '../../appliance/protect/continuous/journal-target.ts';
import { MirrorTarget } from '../../appliance/protect/continuous/mirror-target.ts';
import { DEFAULT_SESSION_SETTINGS } from '../../appliance/protect/continuous/session-settings.ts';
import { Journal, type JournalOptions } from '../../appliance/volume/journal.ts';
import { layeredDevice, loggedDevice } from '../../appliance/volume/logged-device.ts';
import { ServerProcess } from '../server-process.ts';
import type { Workspace } from '../workspace.ts';

/*
 * The appliance's end of a mirror as a process of its own: an NBD server whose export writes into an encrypted journal, which is
 * flushed and folded by the settings of a session, until it is killed. The machine and its points are left out.
 *
 *   node bench/continuous/journal-server.ts SOCKET OPTIONS               as JSON, `JournalServerOptions`
 */

export const JOURNAL_OPTIONS: JournalOptions = {
  key: Buffer.alloc(32, 0x42),
  machineId: parseMachineId('0190a4c2-7d3e-4f10-8a55-1c2d3e4f5a6b'),
};
/** Stands for the recovery points that folding would make. */
export const POINT_ID = '0123456789abcdef';
export const EXPORT_NAME = 'disk';

export interface JournalServerOptions {
  readonly directory: string;
  readonly sizeBytes: number;
  /** Default: as often as a session folds. */
  readonly foldRecords?: number;
  readonly segmentBytes?: number;
}

const TICK_MS = 20;

/** Starts it, and settles when it answers. @throws ApplianceError TOOL_FAILED, TIMED_OUT */
export function startJournalServer(workspace: Workspace, options: JournalServerOptions): Promise<ServerProcess> {
  const socketPath = workspace.socketPath('journal');
  const args = [import.meta.filename, socketPath, JSON.stringify(options)];
  // Closing a journal seals what is left of it, which nobody needs here.
  return ServerProcess.start(process.execPath, args, { socketPath, stopSignal: 'SIGKILL' });
}

/** Disk 0 at the newest moment that can be opened, over nothing. */
export async function newestContent(journal: Journal, sizeBytes: number): Promise<Buffer> {
  const { sequence } = await journal.resolve('newest');
  await using view = await journal.openView(0, sequence);
  await using base = memoryDevice({ sizeBytes });
  const content = Buffer.alloc(sizeBytes);
  await layeredDevice({ base, layer: view, disk: 0 }).read(0, content);
  return content;
}

async function serve(socketPath: string, options: JournalServerOptions): Promise<void> {
  const { directory, sizeBytes, foldRecords = DEFAULT_SESSION_SETTINGS.foldRecords, segmentBytes } = options;
  const journal = await Journal.open(directory, {
    ...JOURNAL_OPTIONS,
    ...(segmentBytes === undefined ? {} : { segmentBytes }),
  });
  if (journal.openStretch === undefined) await journal.beginStretch('writes');
  const server = await NbdServer.listen({ listen: { kind: 'unix', path: socketPath } });
  const base = memoryDevice({ sizeBytes });
  const volume = loggedDevice({ base, log: journal, disk: 0 });
  const target = new MirrorTarget({
    name: EXPORT_NAME,
    seeding: base,
    clock: systemClock,
    latency: new AppendLatency(DEFAULT_SESSION_SETTINGS.latency),
    onFailure: (error) => {
      throw error;
    },
  });
  await target.hold();
  target.release(new JournalTarget({ log: journal, disk: 0, sizeBytes, durability: 'group', volume: () => volume }));
  server.addExport({ name: EXPORT_NAME, device: target.device, isWatched: true });
  let foldedTo = journal.lastSequence;
  const foldIfDue = async (): Promise<void> => {
    const { sequence } = journal.newest;
    if (sequence - foldedTo < foldRecords) return;
    foldedTo = sequence;
    await journal.folded({ pointId: POINT_ID, sequence });
  };
  setInterval(() => void journal.flush(), DEFAULT_SESSION_SETTINGS.flushMs);
  setInterval(() => void foldIfDue(), TICK_MS);
}

if (import.meta.main) {
  const [socketPath = '', options = ''] = process.argv.slice(2);
  await serve(socketPath, JSON.parse(options) as JournalServerOptions);
}
