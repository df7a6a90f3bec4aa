// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';

/** How long the guest may take to freeze; libvirt's own default would wait for ever. */
const FREEZE_TIMEOUT_SECONDS = 10;
const THAW_ATTEMPTS = 3;

/** What becomes of a run whose guest cannot be frozen: it goes on, it fails, or nobody tries. */
export type QuiesceRule = 'try' | 'always' | 'never';

/** Where a freeze is noted before it happens, so that a process that dies in it is followed by one that thaws. */
export interface FreezeMarker {
  set(): Promise<void>;
  clear(): Promise<void>;
}

export interface Quiesced<T> {
  readonly result: T;
  readonly isFrozen: boolean;
  /** Sentences: what did not work. The guest is thawed, or the last of them says that it may not be. */
  readonly notices: readonly string[];
}

/** What of a machine this needs. */
export type FreezableGuest = Pick<Domain, 'name' | 'fsFreeze' | 'fsThaw'>;

/**
 * Runs `action` with the guest's file systems frozen, if the agent can do that; it is told whether they are. The guest is thawed in every case, also
 * when freezing failed or timed out: it may be frozen all the same. File systems that were thawed before we did it (a
 * guest's own time limit, somebody's hand) count as not frozen.
 * @throws whatever `action` throws; when the guest may still be frozen besides, the message says so
 */
export async function withFrozenGuest<T>(
  domain: FreezableGuest,
  marker: FreezeMarker,
  action: (isFrozen: boolean) => Promise<T>,
): Promise<Quiesced<T>> {
  const notices: string[] = [];
  let frozen = 0;
  let hasAgent = true;
  await marker.set();
  try {
    frozen = await domain.fsFreeze({ timeoutSeconds: FREEZE_TIMEOUT_SECONDS });
  } catch (error) {
    hasAgent = !hasCode(error, 'AGENT_UNAVAILABLE');
    notices.push(`the guest's file systems were not frozen: ${messageOf(error)}`);
  }
  const [outcome] = await Promise.allSettled([action(frozen > 0)]);
  const { problem, thawed } = await tryToThaw(domain);
  const warning = hasAgent ? problem : undefined;
  if (warning !== undefined) notices.push(warning);
  else await clearMarker(marker, notices);
  if (outcome.status === 'rejected') throw warning === undefined ? outcome.reason : warned(outcome.reason, warning);
  const wasThawedEarly = thawed !== undefined && thawed < frozen;
  if (wasThawedEarly) {
    notices.push(
      `only ${thawed} of ${frozen} file systems were still frozen at the end: the point is crash-consistent`,
    );
  }
  return { result: outcome.value, isFrozen: frozen > 0 && !wasThawedEarly, notices };
}

/** A marker that stays means one more thaw at the next start, which harms nobody. */
async function clearMarker(marker: FreezeMarker, notices: string[]): Promise<void> {
  try {
    await marker.clear();
  } catch (error) {
    notices.push(`the note of the freeze could not be removed: ${messageOf(error)}`);
  }
}

function warned(error: unknown, warning: string): unknown {
  if (!(error instanceof ApplianceError)) return error;
  const { code, details, hint } = error;
  return new ApplianceError(code, `${error.message}; ${warning}`, { cause: error, details, hint });
}

/** Thaws, trying again; a sentence when the guest may still be frozen. A machine that is gone is not frozen. */
export async function thaw(domain: FreezableGuest): Promise<string | undefined> {
  return (await tryToThaw(domain)).problem;
}

interface Thawed {
  readonly problem?: string;
  /** File systems that this call thawed; undefined where it is not known. */
  readonly thawed?: number;
}

async function tryToThaw(domain: FreezableGuest): Promise<Thawed> {
  let last = '';
  for (let attempt = 0; attempt < THAW_ATTEMPTS; attempt++) {
    try {
      const thawed = await domain.fsThaw({ timeoutSeconds: FREEZE_TIMEOUT_SECONDS });
      // An attempt that failed before may have thawed them.
      return attempt === 0 ? { thawed } : {};
    } catch (error) {
      if (error instanceof ApplianceError && GUEST_IS_GONE.has(error.code)) return {};
      last = messageOf(error);
    }
  }
  return { problem: `the guest ${domain.name} may still be frozen (thaw it with \`virsh domfsthaw\`): ${last}` };
}

const GUEST_IS_GONE: ReadonlySet<string> = new Set(['DOMAIN_NOT_FOUND', 'DOMAIN_WRONG_STATE']);

function messageOf(error: unknown): string {
  return toError(error).message;
}
