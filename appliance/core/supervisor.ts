// SPDX-License-Identifier: Apache-2.0
import { sendToUnixSocket } from './libc.ts';

/** What a service manager is told. (sd_notify(3)) */
export type SupervisorNews = 'ready' | 'reloading' | 'stopping' | 'alive';

/** What started this process and wants to hear from it: systemd, or whoever speaks its protocol. */
export interface Supervisor {
  /** How long it waits for the next sign of life before it ends the process; undefined where it does not wait. */
  readonly watchdogMs: number | undefined;
  /** Tells it. What cannot be delivered is lost: it has means of its own. Returns false then. */
  tell(news: SupervisorNews, status?: string): boolean;
}

const MESSAGES: Readonly<Record<SupervisorNews, string>> = {
  ready: 'READY=1',
  reloading: 'RELOADING=1',
  stopping: 'STOPPING=1',
  alive: 'WATCHDOG=1',
};

/** The supervisor that the environment names; undefined where there is none. (sd_notify(3), sd_watchdog_enabled(3)) */
export function supervisorOf(env: Readonly<Record<string, string | undefined>>, pid: number): Supervisor | undefined {
  const path = env['NOTIFY_SOCKET'];
  if (path === undefined || (!path.startsWith('/') && !path.startsWith('@'))) return undefined;
  const watchdogUs = Number(env['WATCHDOG_USEC'] ?? '0');
  const isMeant = env['WATCHDOG_PID'] === undefined || env['WATCHDOG_PID'] === String(pid);
  return {
    watchdogMs: isMeant && Number.isSafeInteger(watchdogUs) && watchdogUs > 0 ? watchdogUs / 1000 : undefined,
    tell: (news, status) => {
      const words = status === undefined ? '' : `\nSTATUS=${status.replaceAll('\n', ' ')}`;
      return sendToUnixSocket(path, `${MESSAGES[news]}${words}`);
    },
  };
}
