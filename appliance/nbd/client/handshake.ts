// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { CLISERV_MAGIC, HANDSHAKE_FLAG, IHAVEOPT, NBDMAGIC, OPT, OPTION_REPLY_MAGIC, REP } from '../protocol.ts';
import { decodeText, encodeOption, MAX_OPTION_REPLY_BYTES, type OptionReply, protocolError } from './option-codec.ts';

/**
 * The handshake is written as generators that do no I/O: they yield how many bytes they need next (and are resumed with
 * exactly those, valid until the next yield), or `tls` (and are resumed when the TLS session stands), and they send
 * through a function. So it runs the same over any cut of the byte stream.
 */
export type HandshakeStep = number | 'tls';
export type Handshake<Result> = Generator<HandshakeStep, Result, Buffer>;
export type Send = (message: Buffer) => void;

export type ReplyMode = 'simple' | 'structured' | 'extended';

/** What the two ends agreed on so far. */
export interface Session {
  readonly send: Send;
  readonly isFixedNewstyle: boolean;
  readonly hasNoZeroes: boolean;
  isTls: boolean;
  replies: ReplyMode;
}

const OPTION_NAMES = new Map<number, string>(Object.entries(OPT).map(([name, value]) => [value, name]));
const ERROR_NAMES = new Map<number, string>(Object.entries(REP).map(([name, value]) => [value, name]));

/** Reads the greeting and answers it (specification: "Newstyle negotiation"). */
export function* greet(send: Send): Handshake<Session> {
  const greeting = yield 16;
  if (greeting.readBigUInt64BE(0) !== NBDMAGIC) throw protocolError('it does not greet with NBDMAGIC');
  const style = greeting.readBigUInt64BE(8);
  if (style === CLISERV_MAGIC) {
    throw new ApplianceError('NBD_REFUSED', 'the NBD server speaks the oldstyle handshake, which has no export names', {
      hint: 'Use a server that speaks the fixed newstyle handshake (any of the last ten years).',
    });
  }
  if (style !== IHAVEOPT) throw protocolError('its greeting is neither newstyle nor oldstyle');
  const serverFlags = (yield 2).readUInt16BE(0);
  const isFixedNewstyle = (serverFlags & HANDSHAKE_FLAG.FIXED_NEWSTYLE) !== 0;
  const hasNoZeroes = (serverFlags & HANDSHAKE_FLAG.NO_ZEROES) !== 0;
  const flags = Buffer.allocUnsafe(4);
  flags.writeUInt32BE(
    (isFixedNewstyle ? HANDSHAKE_FLAG.FIXED_NEWSTYLE : 0) + (hasNoZeroes ? HANDSHAKE_FLAG.NO_ZEROES : 0),
  );
  send(flags);
  return { send, isFixedNewstyle, hasNoZeroes, isTls: false, replies: 'simple' };
}

/**
 * STARTTLS as the first option. With `require`, anything but an ACK ends the connection: no silent plain text.
 *
 * @throws NBD_TLS_FAILED when TLS is required and not offered
 */
export function* startTls(session: Session, isRequired: boolean): Handshake<void> {
  let refusal = 'it does not speak fixed newstyle';
  if (session.isFixedNewstyle) {
    session.send(encodeOption(OPT.STARTTLS));
    const reply = yield* readReply(OPT.STARTTLS);
    if (isAck(reply)) {
      yield 'tls';
      session.isTls = true;
      return;
    }
    refusal = refusalOf(OPT.STARTTLS, reply).message;
  }
  if (!isRequired) return;
  throw new ApplianceError('NBD_TLS_FAILED', `TLS is required, but the NBD server does not offer it: ${refusal}`, {
    hint: 'Switch TLS on in the server, or use nbd:// where plain text is acceptable.',
  });
}

/** Offers extended headers, then structured replies, each with its fallback. */
export function* chooseReplies(session: Session, most: ReplyMode): Handshake<void> {
  if (!session.isFixedNewstyle || most === 'simple') return;
  if (most === 'extended' && (yield* offer(session, OPT.EXTENDED_HEADERS))) session.replies = 'extended';
  else if (yield* offer(session, OPT.STRUCTURED_REPLY)) session.replies = 'structured';
}

/** Reads one reply to an option. */
export function* readReply(option: number): Handshake<OptionReply> {
  const header = yield 20;
  if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw protocolError('an option reply has a wrong magic');
  const echoed = header.readUInt32BE(8);
  if (echoed !== option) throw protocolError(`it answered option ${echoed}, but ${option} was asked`);
  const type = header.readUInt32BE(12);
  const length = header.readUInt32BE(16);
  if (length > MAX_OPTION_REPLY_BYTES) throw protocolError(`an option reply announces ${length} bytes`);
  if (length === 0) return { type, data: Buffer.alloc(0) };
  return { type, data: yield length };
}

/** True for an ACK, which carries no data. */
export function isAck(reply: OptionReply): boolean {
  if (reply.type !== REP.ACK) return false;
  if (reply.data.length > 0) throw protocolError('an ACK carries data');
  return true;
}

export function isErrorReply(reply: OptionReply): boolean {
  return reply.type >= 0x80000000;
}

/** The error of an option that the server refused, or of a reply that does not belong there. */
export function refusalOf(option: number, reply: OptionReply): ApplianceError {
  const optionName = OPTION_NAMES.get(option) ?? String(option);
  if (!isErrorReply(reply)) return protocolError(`reply type ${reply.type} does not belong to ${optionName}`);
  const errorName = ERROR_NAMES.get(reply.type) ?? `error 0x${reply.type.toString(16)}`;
  const said = decodeText(reply.data);
  const message = `the NBD server refused ${optionName} with ${errorName}${said === '' ? '' : `: ${said}`}`;
  const details = { option: optionName, reply: errorName };
  switch (reply.type) {
    case REP.ERR_UNKNOWN:
      return new ApplianceError('NBD_EXPORT_UNKNOWN', message, { details });
    case REP.ERR_TLS_REQD:
      return new ApplianceError('NBD_TLS_REQUIRED', message, { details });
    case REP.ERR_SHUTDOWN:
      return new ApplianceError('NBD_CONNECTION_LOST', message, { details });
    default:
      return new ApplianceError('NBD_REFUSED', message, { details });
  }
}

/** True when the error leaves the byte stream in order, so that the client may still say ABORT. */
export function canAbortPolitely(error: unknown): boolean {
  if (error instanceof ApplianceError && error.details['reply'] !== undefined) return true;
  return hasCode(error, 'NBD_REFUSED', 'NBD_META_CONTEXT_MISSING', 'NOT_SUPPORTED');
}

function* offer(session: Session, option: number): Handshake<boolean> {
  session.send(encodeOption(option));
  const reply = yield* readReply(option);
  if (isAck(reply)) return true;
  const refusal = refusalOf(option, reply);
  if (refusal.code === 'NBD_REFUSED') return false;
  throw refusal;
}
