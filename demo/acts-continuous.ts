// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import type { ProtectionReport } from '../appliance/api/operations.ts';
import { formatBytes } from '../appliance/cli/format.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { insideAct } from './acts-after.ts';
import type { GuestShell } from './guest-shell.ts';
import type { Play } from './play.ts';

/** The story of a machine whose every write is kept: somebody deletes everything, and it is booted from one second before. */

const PROTECT_LIMIT_MS = 120_000;
const POLL_MS = 100;
/** The moment that is booted lies so long before the deletion. */
const BEFORE_MS = 1000;
/** The work before ended clearly earlier than that. */
const PAUSE_MS = 2000;

export async function protectAct(play: Play): Promise<void> {
  const { show, stage, figures } = play;
  show.act(
    'Continuous protection',
    'QEMU sends each write of the guest to the appliance, and the guest sees it complete when it is in the journal. Nothing is installed in the guest.',
  );
  const startedMs = systemClock.elapsedMs();
  await play.understudy(['protect', stage.machineName, '--continuous', '--connect', stage.uri]);
  show.busy('reading what is on the disk, once');
  await untilProtected(play, startedMs);
  figures.protectMs = systemClock.elapsedMs() - startedMs;
  show.claim('from here on every write is kept', true, figures.protectMs);
}

/** Returns the moment one second before, as a user writes it. */
export async function deletionAct(play: Play, guest: GuestShell): Promise<string> {
  const { show, stage, figures } = play;
  show.act('Disaster', 'Somebody deletes everything, and the damage reaches the disk.');
  await delay(PAUSE_MS, undefined, { signal: stage.signal });
  const deletedAtMs = systemClock.nowMs();
  const deletedAt = new Date(deletedAtMs).toISOString();
  const moment = new Date(deletedAtMs - BEFORE_MS).toISOString();
  show.command(`rm -rf /data/*   # at ${deletedAt}`, 'guest #');
  await guest.expect('rm -rf /data/*; sync; echo 3 > /proc/sys/vm/drop_caches');
  const { output } = await guest.run('ls /data');
  show.claim('nothing is left in /data', output.trim() === '');
  await play.understudy(['timeline', stage.machineName]);
  const { journalBytes, rpoMs, state } = await protection(play);
  Object.assign(figures, { journalBytes, deletedAt, bootedAt: moment });
  show.claim(
    `the journal has all of it, the deletion included, in ${formatBytes(journalBytes)}`,
    state === 'protected' && rpoMs === 0,
  );
  return moment;
}

/** The original is still protected, with its damage. */
export async function stillThereAct(play: Play, booted: GuestShell, hashes: string): Promise<void> {
  await insideAct(play, booted, hashes);
  const { state } = await protection(play);
  play.show.claim('the original is protected all the while', state === 'protected');
}

/** Takes the mirror off the machine before the stage is struck. */
export async function unprotectAct(play: Play): Promise<void> {
  play.show.act(
    'Let go',
    'The machine goes on without the appliance; its last state becomes an ordinary recovery point.',
  );
  const end = await play.understudy(['unprotect', play.stage.machineName]);
  const running = await play.stage.virsh('list', '--name');
  play.show.claim('the machine runs on', running.includes(play.stage.machineName), end.durationMs);
}

async function protection(play: Play): Promise<ProtectionReport> {
  const [report] = await play.ask<ProtectionReport[]>('protection');
  if (report === undefined) throw new ApplianceError('MACHINE_NOT_FOUND', 'nothing is protected');
  return report;
}

async function untilProtected(play: Play, startedMs: number): Promise<void> {
  for (;;) {
    const { state, reason } = await protection(play);
    if (state === 'protected') return;
    if (systemClock.elapsedMs() - startedMs > PROTECT_LIMIT_MS) {
      throw new ApplianceError('TIMED_OUT', `the machine is not protected, but ${state}: ${reason}`);
    }
    await delay(POLL_MS, undefined, { signal: play.stage.signal });
  }
}
