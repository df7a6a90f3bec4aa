// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../../core/clock.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import type { Domain } from '../../hypervisor/libvirt/domain.ts';
import { DomainNews } from './domain-news.ts';
import type { Original } from './original.ts';

/** How a guest showed that it is up. */
export type AnswerKind = 'agent' | 'disk-writes';

export interface GuestWatch {
  readonly machine: Original;
  /** To its disks. */
  readonly writtenBytes: () => number;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

const POLL_MS = 100;
const PING_SECONDS = 1;
const TIMEOUT_MS = 180_000;
/** A guest that writes and whose agent is silent for so long has none that works. */
const AGENT_PATIENCE_MS = 60_000;
const AGENT_CHANNEL = /name=['"]org\.qemu\.guest_agent\.0['"]/;

/**
 * Waits until a started guest shows that its operating system runs: its agent answers a ping, or, of a guest without agent
 * (or with one that stays silent for a minute), it writes to its disks, which file systems do when they are mounted.
 * @throws ApplianceError BOOT_FAILED (it ended), TIMED_OUT, ABORTED
 */
export async function untilGuestAnswers(
  watch: GuestWatch,
): Promise<{ readonly kind: AnswerKind; readonly atMs: number }> {
  const { clock, signal } = watch;
  const { domain } = watch.machine;
  using news = new DomainNews(watch.machine);
  const startedMs = clock.elapsedMs();
  const before = watch.writtenBytes();
  const hasAgent = AGENT_CHANNEL.test(await domain.xml());
  let wroteAtMs: number | undefined;
  for (;;) {
    if (signal.aborted) throw new ApplianceError('ABORTED', 'the wait for the guest was interrupted');
    const nowMs = clock.elapsedMs();
    if (wroteAtMs === undefined && watch.writtenBytes() > before) wroteAtMs = nowMs;
    if (hasAgent && (await answersPing(domain))) return { kind: 'agent', atMs: clock.elapsedMs() };
    const isPatienceOver = nowMs - startedMs > AGENT_PATIENCE_MS;
    if (wroteAtMs !== undefined && (!hasAgent || isPatienceOver)) return { kind: 'disk-writes', atMs: wroteAtMs };
    await checkRuns(domain);
    if (nowMs - startedMs > TIMEOUT_MS) {
      throw new ApplianceError(
        'TIMED_OUT',
        `${domain.name} runs, but its guest did not answer within ${TIMEOUT_MS / 1000} s`,
        {
          hint: 'Boot it with `understudy boot` and look at its console.',
        },
      );
    }
    await news.next(POLL_MS);
  }
}

async function answersPing(domain: Domain): Promise<boolean> {
  try {
    await domain.agentCommand({ execute: 'guest-ping' }, { timeoutSeconds: PING_SECONDS });
    return true;
  } catch (error) {
    if (hasCode(error, 'AGENT_UNAVAILABLE', 'AGENT_TIMED_OUT', 'AGENT_FAILED', 'DOMAIN_WRONG_STATE', 'LIBVIRT_FAILED'))
      return false;
    throw error;
  }
}

async function checkRuns(domain: Domain): Promise<void> {
  const { state } = await domain.state();
  if (state !== 'shut-off' && state !== 'crashed') return;
  throw new ApplianceError('BOOT_FAILED', `${domain.name} ended before its guest answered (${state})`);
}
