// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { canonicalJson } from '../core/canonical-json.ts';

/** Who did it; a `Principal` without what it may do. */
export interface AuditWho {
  readonly kind: string;
  readonly id: string;
  readonly name: string;
  readonly role: string;
}

/**
 * What is recorded. `started` and `ended` are the two halves of one act; an act without its end was under way when the process
 * ended. `event` is whole: a login, a denied access, something of the log itself.
 */
export interface AuditEvent {
  readonly phase: 'started' | 'ended' | 'event';
  /** An operation's name, or a word like `login`. */
  readonly action: string;
  /** Of an end: the sequence of its start. */
  readonly start?: number;
  readonly who: AuditWho;
  /** The address it came from; null for this host. */
  readonly from: string | null;
  readonly requestId: string | null;
  /** What it was done to: a machine, a point, a user. */
  readonly target: string | null;
  /** Without secrets: `withoutSecrets` was applied. */
  readonly params: Readonly<Record<string, unknown>>;
  /** Null for a start. */
  readonly outcome: 'ok' | 'failed' | 'denied' | null;
  /** The error's code. */
  readonly code: string | null;
  /** The approval that allowed it. */
  readonly approval: string | null;
}

/** An event in its place in the log. */
export interface AuditEntry extends AuditEvent {
  /** From 1, without gaps. */
  readonly sequence: number;
  /** ISO 8601 in UTC, of the wall clock: it may go back, the sequence does not. */
  readonly at: string;
}

/** The hash before the first entry. */
export const GENESIS_HASH: string = '0'.repeat(64);

/** Longest line of a log; `fitting` sees to it. */
export const MAX_ENTRY_BYTES = 16_384;
const MAX_PARAMS_BYTES = 8_192;
const MAX_TEXT_CHARACTERS = 400;

/** Members whose values never get into the log, whatever operation they belong to. */
const SECRET_NAMES =
  /(password|passphrase|secret|token|credential|recoverykey|privatekey|apikey|otp|totp|code|cookie|csrf)$/i;
/** Names that end like a secret's and are none. */
const OPEN_NAMES: ReadonlySet<string> = new Set(['hasPassword', 'statusCode', 'exitCode']);
const HIDDEN = '(not recorded)';

/** The hash of an entry: SHA-256 of the hash before it (64 hexadecimal digits), a line feed, and its canonical JSON. */
export function hashEntry(previous: string, entry: AuditEntry): string {
  return createHash('sha256')
    .update(`${previous}\n${canonicalJson(entry)}`)
    .digest('hex');
}

/** The line of an entry: canonical JSON with its `hash`, and a line feed. */
export function encodeEntry(entry: AuditEntry, hash: string): string {
  return `${canonicalJson({ ...entry, hash })}\n`;
}

/** Parameters as they may be recorded: secrets replaced, long texts cut. */
export function withoutSecrets(params: object): Readonly<Record<string, unknown>> {
  const clean = cleanMember(params, 0) as Readonly<Record<string, unknown>>;
  const bytes = Buffer.byteLength(canonicalJson(clean));
  return bytes <= MAX_PARAMS_BYTES ? clean : { omittedBytes: bytes };
}

/** The same event with texts of bounded length, so that its line fits. */
export function fitting(event: AuditEvent): AuditEvent {
  const { who } = event;
  return {
    ...event,
    action: cut(event.action),
    who: { kind: cut(who.kind), id: cut(who.id), name: cut(who.name), role: cut(who.role) },
    from: event.from === null ? null : cut(event.from),
    requestId: event.requestId === null ? null : cut(event.requestId),
    target: event.target === null ? null : cut(event.target),
    params: withoutSecrets(event.params),
    approval: event.approval === null ? null : cut(event.approval),
  };
}

function cleanMember(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cut(withoutLogin(value));
  if (typeof value === 'number' || typeof value === 'boolean' || value === null) return value;
  if (typeof value !== 'object' || depth > 6) return HIDDEN;
  if (Array.isArray(value)) return value.map((item) => cleanMember(item, depth + 1));
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .map(([name, member]): [string, unknown] => {
      const isSecret = SECRET_NAMES.test(name) && !OPEN_NAMES.has(name) && member !== null;
      return [cut(name), isSecret ? HIDDEN : cleanMember(member, depth + 1)];
    });
  return Object.fromEntries(members);
}

/** A URI without the password that some write into it. */
function withoutLogin(text: string): string {
  return text.replace(/(:\/\/[^\s:@/]*):[^\s@/]*@/g, '$1@');
}

function cut(text: string): string {
  const whole = text.toWellFormed();
  return whole.length <= MAX_TEXT_CHARACTERS ? whole : `${whole.slice(0, MAX_TEXT_CHARACTERS).toWellFormed()}…`;
}
