// SPDX-License-Identifier: Apache-2.0

import type { BootedMachine, PointSummary } from '../appliance/api/operations.ts';
import type { CheckReport, StatusReport } from '../appliance/api/schemas/repository.ts';
import { formatBytes, formatRatio } from '../appliance/cli/format.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { GuestShell } from './guest-shell.ts';
import { type Play, timed } from './play.ts';

/** The second half of the demo: back on stage, and whether everything is right. */

const MIB = 1024 * 1024;
const BOOTED_WRITES_MIB = 8;

/** Boots a state before the damage, by default the newest recovery point, and returns the shell of the new machine. */
export async function bootAct(play: Play, original: GuestShell, state: string = 'latest'): Promise<GuestShell> {
  const { show, stage, figures } = play;
  const { machineName, bootedName, uri } = stage;
  show.act('Back on stage', 'The machine starts from the repository, beside the broken one: nothing is copied first.');
  stage.expectBooted();
  const startedMs = systemClock.elapsedMs();
  await play.understudy(['boot', `${machineName}@${state}`, '--as', bootedName, '--connect', uri]);
  show.busy('the guest boots');
  const booted = await GuestShell.connect(stage, bootedName);
  figures.bootMs = booted.answeredAtMs - startedMs;
  show.claim('its user space answers (the time runs from the call of boot)', true, figures.bootMs);
  show.command('virsh -c "$LIBVIRT" list');
  // With somebody's own libvirt, other machines are nobody's business here.
  const both = (await stage.virsh('list')).split('\n').filter((line) => line.includes(machineName));
  show.output(both.join('\n'));
  const { status } = await original.run('ls /data/orders');
  show.claim('the original still runs, and is still broken', both.length === 2 && status !== 0);
  return booted;
}

export async function insideAct(play: Play, booted: GuestShell, hashes: string): Promise<void> {
  const { show, stage } = play;
  const count = hashes.split('\n').length;
  show.act('Is it right?', 'The booted guest computes the hashes again, and then writes, as a machine in use does.');
  show.command('sha256sum -c   # with the hashes from before the disaster', 'guest #');
  show.busy('computing hashes');
  const check = await timed(() => booted.run(`cd /data && sha256sum -c - <<'END'\n${hashes}\nEND`));
  const right = check.value.output.split('\n').filter((line) => line.endsWith(': OK')).length;
  show.claim(
    `${right} of ${count} files are what they were`,
    check.value.status === 0 && right === count,
    check.durationMs,
  );
  const command = `dd if=/dev/urandom of=/data/after.db bs=1M count=${BOOTED_WRITES_MIB}`;
  show.command(`${command} && sync`, 'guest #');
  const written = await timed(() => booted.run(`${command} && sync && rm -r /data/orders && sync`));
  const machines = await play.ask<BootedMachine[]>('booted');
  const writtenBytes = machines.find(({ name }) => name === stage.bootedName)?.writtenBytes ?? 0;
  show.claim(
    `it writes, into a log of its own: ${formatBytes(writtenBytes)}`,
    written.value.status === 0 && writtenBytes >= BOOTED_WRITES_MIB * MIB,
    written.durationMs,
  );
}

/** After the booted machine has written and deleted, so that this also shows that its point did not change. */
export async function restoreAct(play: Play, reference: string): Promise<void> {
  const { show, stage, figures } = play;
  show.act(
    'Restore to a file',
    'The same recovery point as a qcow2 file, compared with the independent copy, bit by bit.',
  );
  const restored = stage.path('restored.qcow2');
  const args = ['restore', `${stage.machineName}@latest`, '--to', restored, '--format', 'qcow2'];
  const end = await play.understudy(args);
  figures.restoreMs = end.durationMs;
  show.done('restored', end.durationMs);
  show.command('qemu-img compare $DEMO/reference.raw $DEMO/restored.qcow2');
  show.busy('comparing');
  const same = await timed(() => play.haveSameContent(reference, restored));
  show.claim(
    'identical: nothing that the booted machine wrote or deleted touched the point',
    same.value,
    same.durationMs,
  );
  const damaged = await timed(() => play.haveSameContent(reference, stage.path('disk.qcow2')));
  show.claim('as a control, the damaged disk is not identical', !damaged.value, damaged.durationMs);
}

export async function contentsAct(play: Play): Promise<void> {
  const { show, figures, stage } = play;
  show.act(
    'What the repository holds',
    'Each point is a full one; what they share is stored once. All of it is read and verified now.',
  );
  await play.understudy(['points', stage.machineName]);
  await play.understudy(['status']);
  const check = await play.understudy(['check', '--read-data']);
  const points = await play.ask<PointSummary[]>('points', stage.machineName);
  const status = await play.ask<StatusReport>('status');
  const report = await play.ask<CheckReport>('check');
  const { logicalBytes, uniqueBytes, storedBytes } = status;
  Object.assign(figures, { checkMs: check.durationMs, logicalBytes, uniqueBytes, storedBytes });
  const deduplication = `deduplication ${formatRatio(logicalBytes, uniqueBytes)}`;
  show.claim(
    `${points.length} points, no defects, ${deduplication}, compression ${formatRatio(uniqueBytes, storedBytes)}`,
    points.length === 2 && report.ok && report.findings.length === 0,
    check.durationMs,
  );
}

export async function curtainAct(play: Play): Promise<void> {
  const { show, stage } = play;
  show.act('Curtain', 'The booted machine goes, with what it wrote. The recovery points stay as they were.');
  const end = await play.understudy(['stop', stage.bootedName, '--discard']);
  const machines = await play.ask<BootedMachine[]>('booted');
  show.claim('no machine runs from the repository any more', machines.length === 0, end.durationMs);
}
