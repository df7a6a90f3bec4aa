// SPDX-License-Identifier: Apache-2.0
import type { Core, Foundation } from './core.ts';
import { thinFolds } from './fold-thinning.ts';
import { removeAbandonedRuntimes } from './runtime-lease.ts';

/**
 * What an earlier process may have left is found, said and ended: guests that are frozen, machines that wait for their disks. As
 * the service, what was served is served again, and protected machines are taken up.
 */
export async function settleIn(
  { state, clock }: Foundation,
  core: Core,
  { isService, onNotice }: { readonly isService: boolean; readonly onNotice: (sentence: string) => void },
): Promise<void> {
  const { damaged = [], lostPoints = [], missingContents = 0 } = core.reconciled ?? {};
  for (const { object, message } of damaged) onNotice(`${object} is damaged: ${message}`);
  for (const point of lostPoints) {
    onNotice(`recovery point ${point} is lost: its manifest disappeared from the repository`);
  }
  if (missingContents > 0) onNotice(`${missingContents} contents are missing; run \`understudy check\``);
  for (const sentence of await core.protect.removeLeftovers()) onNotice(sentence);
  for (const path of await removeAbandonedRuntimes(state.runtimePath)) {
    onNotice(`${path} was removed: the state directory that it belonged to is gone`);
  }
  for (const sentence of await core.protect.thawLeftovers()) onNotice(sentence);
  if (!isService) return;
  core.repository.pool.start();
  const { restored, problems } = await core.recover.restoreSessions();
  for (const sentence of [...restored, ...problems, ...(await core.standbys.unfinished())]) onNotice(sentence);
  core.continuous.startSessions(() => thinFolds(core, clock, onNotice));
}
