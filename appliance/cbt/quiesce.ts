// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';

/** How long the guest may take to freeze; libvirt's own default would wait for ever. */
const FREEZE_TIMEOUT_SECONDS = 10;
const THAW_ATTEMPTS = 3;

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

/**
 * Runs `action` with the guest's file systems frozen, if the agent can do that. The guest is thawed in every case, also
 * when freezing failed or timed out: it may be frozen all the same.
 */
export async function withFrozenGuest<T>(
  domain: Domain,
  marker: FreezeMarker,
  action: () => Promise<T>,
): Promise<Quiesced<T>> {
  const notices: string[] = [];
  let isFrozen = false;
  let hasAgent = true;
  await marker.set();
  try {
    try {
      isFrozen = (await domain.fsFreeze({ timeoutSeconds: FREEZE_TIMEOUT_SECONDS })) > 0;
    } catch (error) {
      hasAgent = !hasCode(error, 'AGENT_UNAVAILABLE');
      notices.push(`the guest's file systems were not frozen: ${messageOf(error)}`);
    }
    const result = await action();
    return { result, isFrozen, notices };
  } finally {
    const problem = await thaw(domain);
    if (problem === undefined || !hasAgent) await marker.clear();
    else notices.push(problem);
  }
}

/** Thaws, trying again; a sentence when the guest may still be frozen. A machine that is gone is not frozen. */
export async function thaw(domain: Domain): Promise<string | undefined> {
  let last = '';
  for (let attempt = 0; attempt < THAW_ATTEMPTS; attempt++) {
    try {
      await domain.fsThaw({ timeoutSeconds: FREEZE_TIMEOUT_SECONDS });
      return undefined;
    } catch (error) {
      if (error instanceof ApplianceError && GUEST_IS_GONE.has(error.code)) return undefined;
      last = messageOf(error);
    }
  }
  return `the guest ${domain.name} may still be frozen (thaw it with \`virsh domfsthaw\`): ${last}`;
}

const GUEST_IS_GONE: ReadonlySet<string> = new Set(['DOMAIN_NOT_FOUND', 'DOMAIN_WRONG_STATE']);

function messageOf(error: unknown): string {
  return toError(error).message;
}
