// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from 'node:child_process';
import { open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { memoryDevice } from '../appliance/block/memory-device.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { parseMachineId } from '../appliance/core/ids.ts';
import { NbdServer } from '../appliance/nbd/server/nbd-server.ts';
import { Journal, type JournalOptions } from '../appliance/volume/journal.ts';
import { layeredDevice, loggedDevice } from '../appliance/volume/logged-device.ts';
import { measureProcess } from './measured-process.ts';
import { ServerProcess } from './server-process.ts';
import { median, Seeded } from './statistics.ts';
import { Workspace } from './workspace.ts';

/*
 * Figures of a journal: `sh scripts/run bench/journal.ts [--rounds N] [--seconds N] [--writes N]`.
 *
 * appends: 4 KiB at depth 16 over one unix connection, by fio, into an encrypted journal, against qemu-nbd on a raw file.
 * moments: a journal of N writes of 512 bytes (default 1 million), a fold each 100,000; then random moments are opened.
 */

const MIB: number = 1024 ** 2;
const DISK_BYTES: number = 1024 * MIB;
const BLOCK_BYTES = 4096;
const DEPTH = 16;
const WRITE_BYTES = 512;
const FOLD_RECORDS = 100_000;
const MOMENTS = 100;
const POINT_ID = '0123456789abcdef';
const OPTIONS: JournalOptions = {
  key: Buffer.alloc(32, 0x42),
  machineId: parseMachineId('0190a4c2-7d3e-4f10-8a55-1c2d3e4f5a6b'),
};

interface FioReport {
  readonly jobs: readonly {
    readonly error: number;
    readonly write: {
      readonly iops: number;
      readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
    };
  }[];
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** What a child process does: offers a disk whose writes go into a new journal. */
async function serve(directory: string, socketPath: string): Promise<void> {
  const journal = await Journal.open(directory, OPTIONS);
  const server = await NbdServer.listen({ listen: { kind: 'unix', path: socketPath } });
  const base = memoryDevice({ sizeBytes: 0 });
  const device = loggedDevice({ base, log: journal, disk: 0, sizeBytes: DISK_BYTES });
  server.addExport({ name: 'disk', device });
  const commit = setInterval(() => void journal.flush(), 1000);
  await new Promise<void>((resolve) => process.once('SIGTERM', () => resolve()));
  clearInterval(commit);
  await server.close();
  await journal.close();
}

async function load(uri: string, seconds: number, reportPath: string): Promise<{ iops: number; p99Us: number }> {
  await measureProcess('fio', [
    '--name=load',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--rw=randwrite',
    `--bs=${BLOCK_BYTES}`,
    `--iodepth=${DEPTH}`,
    `--size=${DISK_BYTES}`,
    '--norandommap',
    '--time_based',
    '--ramp_time=1',
    `--runtime=${seconds}`,
    `--output=${reportPath}`,
    '--output-format=json',
  ]);
  const text = await readFile(reportPath, 'utf8');
  const [job] = (JSON.parse(text.slice(text.indexOf('{'))) as FioReport).jobs;
  if (job === undefined || job.error !== 0) throw new ApplianceError('TOOL_FAILED', `fio failed on ${uri}`);
  return { iops: job.write.iops, p99Us: (job.write.clat_ns.percentile?.['99.000000'] ?? Number.NaN) / 1000 };
}

async function appends(workspace: Workspace, options: { rounds: number; seconds: number }): Promise<void> {
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let round = 1; round <= options.rounds; round++) {
    const directory = workspace.path('journal');
    const socketPath = workspace.socketPath('ours');
    await using server = await ServerProcess.start(
      process.execPath,
      [import.meta.filename, 'serve', directory, socketPath],
      { socketPath },
    );
    const own = await load(`nbd+unix:///disk?socket=${socketPath}`, options.seconds, workspace.path('fio'));
    await server.close();
    await workspace.remove(directory);
    const raw = workspace.path('raw');
    const file = await open(raw, 'w');
    await file.truncate(DISK_BYTES);
    await file.close();
    const peerPath = workspace.socketPath('qemu');
    const args = ['--socket', peerPath, '--format=raw', '--persistent', '--shared=8', '--export-name=disk', raw];
    await using peer = await ServerProcess.start('qemu-nbd', args, { socketPath: peerPath });
    const other = await load(`nbd+unix:///disk?socket=${peerPath}`, options.seconds, workspace.path('fio'));
    await peer.close();
    await rm(raw);
    ours.push(own.iops);
    theirs.push(other.iops);
    const text = (figures: { iops: number; p99Us: number }): string =>
      `${figures.iops.toFixed(0)}/s (p99 ${figures.p99Us.toFixed(0)} us)`;
    say(`appends, round ${round}: journal ${text(own)}, qemu-nbd ${text(other)}`);
  }
  const ratio = median(ours) / median(theirs);
  say(
    `appends: journal ${median(ours).toFixed(0)}/s, qemu-nbd ${median(theirs).toFixed(0)}/s, ratio ${ratio.toFixed(2)}`,
  );
}

/** Appends with many in flight, and folds. */
async function fill(directory: string, writes: number): Promise<void> {
  const journal = await Journal.open(directory, OPTIONS);
  const random = new Seeded(7);
  const startedMs = systemClock.elapsedMs();
  await journal.beginStretch('writes');
  let left = writes;
  let next = FOLD_RECORDS;
  const lane = async (): Promise<void> => {
    const data = Buffer.alloc(WRITE_BYTES, 1);
    while (left-- > 0) {
      data.writeUInt32LE(left, 0);
      const offset = random.below(DISK_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
      const { sequence } = await journal.append({ disk: 0, offset, data });
      if (sequence < next) continue;
      next += FOLD_RECORDS;
      await journal.folded({ pointId: POINT_ID, sequence });
    }
  };
  await Promise.all(Array.from({ length: 256 }, lane));
  const seconds = (systemClock.elapsedMs() - startedMs) / 1000;
  say(`moments: ${writes} writes in ${seconds.toFixed(1)} s, RSS ${rssMib()} MiB`);
  await journal.maintain();
  await journal.close();
}

async function moments(workspace: Workspace, writes: number): Promise<void> {
  const directory = workspace.path('journal');
  await fill(directory, writes);
  const fresh = spawnSync(process.execPath, [import.meta.filename, 'open', directory], { encoding: 'utf8' });
  if (fresh.status !== 0) throw new ApplianceError('TOOL_FAILED', fresh.stderr);
  say(fresh.stdout.trimEnd());
}

/** In a process of its own, so that its memory is that of a journal at work and nothing else. */
async function openMoments(directory: string): Promise<void> {
  const random = new Seeded(11);
  const startedMs = systemClock.elapsedMs();
  await using journal = await Journal.open(directory, OPTIONS);
  const openMs = systemClock.elapsedMs() - startedMs;
  const cpuMs = process.cpuUsage().user / 1000;
  say(
    `moments: opened in ${openMs.toFixed(0)} ms (${cpuMs.toFixed(0)} ms of processor since the start), ${(journal.sizeBytes / MIB).toFixed(0)} MiB, RSS ${rssMib()} MiB`,
  );
  const times: number[] = [];
  const into = Buffer.alloc(BLOCK_BYTES);
  for (let round = 0; round < MOMENTS; round++) {
    const sequence = journal.oldestBase + 1 + random.below(journal.lastSequence - journal.oldestBase);
    const beganMs = systemClock.elapsedMs();
    const moment = await journal.resolve({ sequence });
    const after = journal.folds.findLast((fold) => fold.sequence <= moment.sequence)?.sequence ?? 0;
    await using view = await journal.openView(after, moment.sequence);
    await using base = memoryDevice({ sizeBytes: 0 });
    const device = layeredDevice({ base, layer: view, disk: 0, sizeBytes: DISK_BYTES });
    for (let read = 0; read < 10; read++) await device.read(random.below(DISK_BYTES / BLOCK_BYTES) * BLOCK_BYTES, into);
    times.push(systemClock.elapsedMs() - beganMs);
  }
  const worst = Math.max(...times).toFixed(0);
  say(
    `moments: a random one opened and read in ${median(times).toFixed(0)} ms, worst ${worst} ms, RSS ${rssMib()} MiB`,
  );
  const timelineMs = systemClock.elapsedMs();
  await journal.timeline();
  say(`moments: timeline in ${(systemClock.elapsedMs() - timelineMs).toFixed(0)} ms`);
}

function rssMib(): string {
  return (process.memoryUsage.rss() / MIB).toFixed(0);
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '3' },
    writes: { type: 'string', default: '1000000' },
  },
});
const [part, directory = '', socketPath = ''] = positionals;
if (part === 'serve') await serve(directory, socketPath);
else if (part === 'open') await openMoments(directory);
else {
  await using workspace = await Workspace.open(join(import.meta.dirname, '..', '.cache', 'bench-journal'));
  const figures = { rounds: Number(values.rounds), seconds: Number(values.seconds) };
  if (part === undefined || part === 'appends') await appends(workspace, figures);
  if (part === undefined || part === 'moments') await moments(workspace, Number(values.writes));
}
