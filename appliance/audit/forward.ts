// SPDX-License-Identifier: Apache-2.0
import { createSocket } from 'node:dgram';
import { connect, isIPv6 } from 'node:net';
import { hostname } from 'node:os';
import { canonicalJson } from '../core/canonical-json.ts';
import { ApplianceError } from '../core/errors.ts';
import type { AuditEntry } from './entry.ts';
import { runLogger } from './logger-program.ts';

/** Entries that wait for a log host which does not answer; more are counted and left out. The audit log itself has all. */
export const MAX_WAITING = 1000;
/** How long one entry may take. */
const DELIVERY_TIMEOUT_MS = 5_000;
/** RFC 5424, 6.2.1: facility 13 (log audit), severities warning and notice. */
const FACILITY = 13;
const WARNING = 4;
const NOTICE = 5;
/** RFC 5426, 3.2: what every receiver takes in one datagram is less; those in use take this. */
const MAX_MESSAGE_BYTES = 8192;

/** Delivers one message; rejects when it did not get there. */
export type Deliver = (entry: AuditEntry, signal: AbortSignal) => Promise<void>;

/** An entry as a message of RFC 5424, without a line feed. The message is JSON. */
export function syslogMessage(entry: AuditEntry): string {
  const severity = entry.outcome === 'denied' || entry.outcome === 'failed' ? WARNING : NOTICE;
  const head = `<${FACILITY * 8 + severity}>1 ${entry.at} ${hostname() || '-'} understudy ${process.pid} audit -`;
  const whole = `${head} ${canonicalJson(entry)}`;
  if (Buffer.byteLength(whole) <= MAX_MESSAGE_BYTES) return whole;
  return `${head} ${canonicalJson({ ...entry, params: {} })}`;
}

/**
 * What a setting `audit.syslog` means; undefined for `off`. `unix:` and `journald` go through the `logger` program (util-linux).
 * @throws ApplianceError BAD_ARGUMENT
 */
export function deliveryTo(destination: string): Deliver | undefined {
  if (destination === 'off') return undefined;
  if (destination === 'journald') return (entry, signal) => runLogger(['--journald'], journalFields(entry), signal);
  const [, path] = /^unix:(\/.+)$/.exec(destination) ?? [];
  if (path !== undefined) {
    const args = [
      '--socket',
      path,
      '--socket-errors=on',
      '--priority',
      'authpriv.notice',
      '--tag',
      'understudy',
      '--rfc5424',
    ];
    return (entry, signal) => runLogger(args, canonicalJson(entry), signal);
  }
  const [, protocol, host = '', port] = /^(udp|tcp):\/\/(.+):(\d+)$/.exec(destination) ?? [];
  const address = { host: host.replace(/^\[(.*)\]$/, '$1'), port: Number(port) };
  if (protocol === 'udp') return (entry) => sendDatagram(address, syslogMessage(entry));
  if (protocol === 'tcp') return (entry, signal) => sendStream(address, syslogMessage(entry), signal);
  throw new ApplianceError('BAD_ARGUMENT', `${destination} is no place for a log`);
}

/**
 * Passes entries on, one after the other, and never holds anybody up: what does not get there in time is counted, and so is
 * what finds the queue full. `onProblem` hears of the first failure of a row, and of its end.
 */
export class AuditForwarder implements AsyncDisposable {
  readonly #onProblem: (sentence: string) => void;
  #deliver: Deliver | undefined;
  #queue: AuditEntry[] = [];
  #running: Promise<void> | undefined;
  #failed = 0;
  readonly #stop = new AbortController();

  constructor(deliver: Deliver | undefined, onProblem: (sentence: string) => void) {
    this.#deliver = deliver;
    this.#onProblem = onProblem;
  }

  /** Where entries go from here on. */
  set deliver(deliver: Deliver | undefined) {
    this.#deliver = deliver;
  }

  /** Entries that did not get there. */
  get failed(): number {
    return this.#failed;
  }

  send(entry: AuditEntry): void {
    if (this.#deliver === undefined || this.#stop.signal.aborted) return;
    if (this.#queue.length >= MAX_WAITING) return this.#fail(`${MAX_WAITING} entries wait already`);
    this.#queue.push(entry);
    this.#running ??= this.#run();
  }

  /** Settles when nothing waits any more. */
  async drained(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.drained();
  }

  async #run(): Promise<void> {
    await Promise.resolve();
    for (let entry = this.#queue.shift(); entry !== undefined; entry = this.#queue.shift()) {
      if (this.#deliver === undefined || this.#stop.signal.aborted) continue;
      try {
        const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(DELIVERY_TIMEOUT_MS)]);
        await this.#deliver(entry, signal);
        if (this.#failed > 0) this.#onProblem(`the audit log is passed on again; ${this.#failed} entries were not`);
        this.#failed = 0;
      } catch (error) {
        if (!this.#stop.signal.aborted) this.#fail(error instanceof Error ? error.message : String(error));
      }
    }
    this.#running = undefined;
  }

  #fail(reason: string): void {
    this.#failed += 1;
    if (this.#failed === 1) this.#onProblem(`the audit log cannot be passed on (setting audit.syslog): ${reason}`);
  }
}

/** Fields for journald: the message for people, the entry for programs. */
function journalFields(entry: AuditEntry): string {
  const { who, action, target, outcome } = entry;
  const severity = outcome === 'denied' || outcome === 'failed' ? WARNING : NOTICE;
  const message = `audit ${entry.sequence}: ${who.name} ${action} ${target ?? ''} ${outcome ?? entry.phase}`;
  return [
    `MESSAGE=${message.replace(/\p{Cc}/gu, ' ')}`,
    `PRIORITY=${severity}`,
    'SYSLOG_IDENTIFIER=understudy',
    `SYSLOG_FACILITY=${FACILITY}`,
    `UNDERSTUDY_AUDIT=${canonicalJson(entry)}`,
  ].join('\n');
}

interface Address {
  readonly host: string;
  readonly port: number;
}

function sendDatagram({ host, port }: Address, message: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
    const end = (error: Error | null): void => {
      socket.close();
      if (error === null) resolve();
      else reject(error);
    };
    socket.once('error', end);
    socket.send(message, port, host, end);
  });
}

/** Octet counting, RFC 6587, 3.4.1. A connection for each entry: they are few. */
function sendStream({ host, port }: Address, message: string, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, signal });
    socket.on('error', reject);
    socket.on('connect', () => socket.end(`${Buffer.byteLength(message)} ${message}`));
    socket.on('finish', () => resolve());
    socket.resume();
  });
}
