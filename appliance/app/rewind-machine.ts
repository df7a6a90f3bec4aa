// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { Selector } from '../protect/selector.ts';
import type { RecoverContext } from '../recover/context.ts';
import type { RewindReport } from '../recover/rewind.ts';
import { historyIdOf } from '../recover/session-store.ts';
import type { Core } from './core.ts';
import { findState } from './point-removal.ts';

/**
 * Rewinds the booted machine that a selector names to the state that it means.
 * @throws ApplianceError BAD_ARGUMENT, MACHINE_NOT_FOUND, as `selectState` (MOMENT_IN_GAP), and as `Rewinds.rewind`
 */
export async function rewindMachine(
  core: Core,
  selector: Selector,
  nowMs: number,
  context: RecoverContext,
): Promise<RewindReport> {
  if (selector.kind === 'id') {
    throw new ApplianceError('BAD_ARGUMENT', 'which machine goes back, and to when, is not said', {
      hint: 'For example `understudy rewind web-3f2a@"5 minutes ago"`.',
    });
  }
  const session = core.recover.histories.find(selector.machine);
  if (session === undefined) {
    throw new ApplianceError('MACHINE_NOT_FOUND', `there is no booted machine ${selector.machine}`, {
      hint: 'Only machines that run from the appliance are rewound; `understudy booted` lists them. Of others, `understudy boot` starts any moment beside them.',
    });
  }
  // Its own history, whatever else has the name.
  const own: Selector = { ...selector, machine: historyIdOf(session) };
  return core.recover.rewind(session.name, await findState(core, own, nowMs), context);
}
