// SPDX-License-Identifier: Apache-2.0
import { type BlockLimits, BYTE_LIMITS } from '../../block/block-device.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { FLAG, INFO, MAX_PAYLOAD_BYTES, OPT, REP } from '../protocol.ts';
import {
  chooseReplies,
  greet,
  type Handshake,
  isAck,
  isErrorReply,
  type ReplyMode,
  readReply,
  refusalOf,
  type Send,
  type Session,
  startTls,
} from './handshake.ts';
import {
  type BlockSizeInfo,
  decodeBlockSizeInfo,
  decodeExportInfo,
  decodeInfoText,
  decodeListEntry,
  decodeMetaContext,
  decodeSizeAndFlags,
  type ExportInfo,
  encodeInfoRequest,
  encodeMetaRequest,
  encodeOption,
  protocolError,
} from './option-codec.ts';

/** What a client wants of the handshake. */
export interface Wishes {
  readonly exportName: string;
  readonly startTls: 'never' | 'try' | 'require';
  readonly replies: ReplyMode;
  readonly requiredContexts: readonly string[];
  readonly optionalContexts: readonly string[];
}

/** An export as the server describes it; limits are already reduced to what `BlockLimits` can say. */
export interface ExportFacts {
  readonly exportName: string;
  /** The server's own name for the export, when it gave one. */
  readonly canonicalName: string | undefined;
  readonly description: string | undefined;
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  readonly limits: BlockLimits;
}

/** What was agreed; the basis of the transmission phase. */
export interface Negotiated extends ExportFacts {
  readonly isTls: boolean;
  readonly replies: ReplyMode;
  /** Context names by the ids that this connection's replies use. */
  readonly contexts: ReadonlyMap<number, string>;
}

const MAX_INFO_REPLIES = 64;
const MAX_CONTEXTS = 1024;
const MAX_EXPORTS = 65_536;
const MAX_LIST_BYTES: number = 16 * 1024 * 1024;
const ZERO_PADDING_BYTES = 124;

/** The whole handshake of a client that wants to use an export. */
export function* negotiate(send: Send, wishes: Wishes): Handshake<Negotiated> {
  const session = yield* open(send, wishes);
  const contexts = yield* selectContexts(session, wishes);
  const facts = session.isFixedNewstyle
    ? ((yield* askExport(session, OPT.GO, wishes.exportName)) ?? (yield* enterByName(session, wishes.exportName)))
    : yield* enterByName(session, wishes.exportName);
  return { ...facts, isTls: session.isTls, replies: session.replies, contexts };
}

/** LIST: the names of the server's exports. */
export function* negotiateList(send: Send, wishes: Wishes): Handshake<{ name: string; description?: string }[]> {
  const session = yield* open(send, wishes);
  requireFixedNewstyle(session);
  send(encodeOption(OPT.LIST));
  const exports: { name: string; description?: string }[] = [];
  let totalBytes = 0;
  for (;;) {
    const reply = yield* readReply(OPT.LIST);
    if (isAck(reply)) break;
    if (reply.type !== REP.SERVER) throw refusalOf(OPT.LIST, reply);
    exports.push(decodeListEntry(reply.data));
    totalBytes += reply.data.length;
    if (exports.length > MAX_EXPORTS || totalBytes > MAX_LIST_BYTES) throw protocolError('its list has no end');
  }
  send(encodeOption(OPT.ABORT));
  return exports;
}

/** INFO and LIST_META_CONTEXT: an export without entering the transmission phase. */
export function* negotiateInfo(send: Send, wishes: Wishes): Handshake<Negotiated> {
  const session = yield* open(send, wishes);
  requireFixedNewstyle(session);
  const facts = yield* askExport(session, OPT.INFO, wishes.exportName);
  if (facts === undefined) throw new ApplianceError('NBD_REFUSED', 'the NBD server does not know INFO');
  let contexts = new Map<number, string>();
  if (session.replies !== 'simple') {
    send(encodeOption(OPT.LIST_META_CONTEXT, encodeMetaRequest(wishes.exportName, [])));
    const listed = yield* readContexts(OPT.LIST_META_CONTEXT);
    // The ids of a list mean nothing and may repeat, so the names are numbered here.
    if (!(listed instanceof ApplianceError)) contexts = new Map(listed.map(({ name }, index) => [index, name]));
  }
  send(encodeOption(OPT.ABORT));
  return { ...facts, isTls: session.isTls, replies: session.replies, contexts };
}

function* open(send: Send, wishes: Wishes): Handshake<Session> {
  const session = yield* greet(send);
  if (wishes.startTls !== 'never') yield* startTls(session, wishes.startTls === 'require');
  yield* chooseReplies(session, wishes.replies);
  return session;
}

function requireFixedNewstyle(session: Session): void {
  if (session.isFixedNewstyle) return;
  throw new ApplianceError('NBD_REFUSED', 'the NBD server does not speak fixed newstyle, so it can only be opened');
}

function* selectContexts(session: Session, wishes: Wishes): Handshake<Map<number, string>> {
  const contexts = new Map<number, string>();
  const queries = [...new Set([...wishes.requiredContexts, ...wishes.optionalContexts])];
  let cause: unknown;
  if (queries.length > 0 && session.replies !== 'simple') {
    session.send(encodeOption(OPT.SET_META_CONTEXT, encodeMetaRequest(wishes.exportName, queries)));
    const selected = yield* readContexts(OPT.SET_META_CONTEXT);
    if (selected instanceof ApplianceError) cause = selected;
    else for (const { id, name } of selected) addContext(contexts, id, name);
  }
  const names = new Set(contexts.values());
  const missing = wishes.requiredContexts.filter((name) => !names.has(name));
  if (missing.length === 0) return contexts;
  if (cause instanceof ApplianceError && cause.code !== 'NBD_REFUSED') throw cause;
  throw new ApplianceError('NBD_META_CONTEXT_MISSING', `the NBD server does not offer ${missing.join(', ')}`, {
    cause,
    details: { exportName: wishes.exportName, missing, offered: [...names] },
  });
}

function addContext(contexts: Map<number, string>, id: number, name: string): void {
  if (contexts.has(id)) throw protocolError(`two meta contexts have the id ${id}`);
  for (const known of contexts.values()) if (known === name) throw protocolError(`it selected ${name} twice`);
  contexts.set(id, name);
}

/** The contexts, or the error with which the option ended (then none of them counts). */
function* readContexts(option: number): Handshake<{ id: number; name: string }[] | ApplianceError> {
  const contexts: { id: number; name: string }[] = [];
  for (;;) {
    const reply = yield* readReply(option);
    if (isAck(reply)) return contexts;
    if (reply.type !== REP.META_CONTEXT) {
      const refusal = refusalOf(option, reply);
      if (isErrorReply(reply)) return refusal;
      throw refusal;
    }
    if (contexts.length >= MAX_CONTEXTS) throw protocolError('its list of meta contexts has no end');
    contexts.push(decodeMetaContext(reply.data));
  }
}

/** GO or INFO; undefined when the server does not know the option and EXPORT_NAME is still allowed. */
function* askExport(session: Session, option: number, exportName: string): Handshake<ExportFacts | undefined> {
  const infoTypes = [INFO.EXPORT, INFO.NAME, INFO.DESCRIPTION, INFO.BLOCK_SIZE];
  session.send(encodeOption(option, encodeInfoRequest(exportName, infoTypes)));
  let info: ExportInfo | undefined;
  let blockSize: BlockSizeInfo | undefined;
  let canonicalName: string | undefined;
  let description: string | undefined;
  for (let count = 0; ; count++) {
    const reply = yield* readReply(option);
    if (isAck(reply)) break;
    if (reply.type === REP.ERR_UNSUP && count === 0 && session.replies !== 'extended') return undefined;
    if (reply.type !== REP.INFO) throw refusalOf(option, reply);
    if (reply.data.length < 2) throw protocolError('an info reply is too short');
    if (count >= MAX_INFO_REPLIES) throw protocolError('its info replies have no end');
    const type = reply.data.readUInt16BE(0);
    if (type === INFO.EXPORT) info = decodeExportInfo(reply.data);
    else if (type === INFO.BLOCK_SIZE) blockSize = decodeBlockSizeInfo(reply.data);
    else if (type === INFO.NAME) canonicalName = decodeInfoText(reply.data);
    else if (type === INFO.DESCRIPTION) description = decodeInfoText(reply.data);
  }
  if (info === undefined) throw protocolError('it acknowledged the export without describing it');
  return describe({ exportName, canonicalName, description, info, blockSize });
}

function* enterByName(session: Session, exportName: string): Handshake<ExportFacts> {
  session.send(encodeOption(OPT.EXPORT_NAME, Buffer.from(exportName)));
  const info = decodeSizeAndFlags(yield* sizeAndFlags(exportName));
  if (!session.hasNoZeroes) yield ZERO_PADDING_BYTES;
  return describe({ exportName, canonicalName: undefined, description: undefined, info, blockSize: undefined });
}

/** EXPORT_NAME has no error reply: a server that does not know the export hangs up. */
function* sizeAndFlags(exportName: string): Handshake<Buffer> {
  try {
    return yield 10;
  } catch (cause) {
    if (!hasCode(cause, 'NBD_CONNECTION_LOST')) throw cause;
    throw new ApplianceError('NBD_REFUSED', 'the NBD server hung up when it was given the export name', {
      cause,
      details: { exportName },
    });
  }
}

interface Described {
  readonly exportName: string;
  readonly canonicalName: string | undefined;
  readonly description: string | undefined;
  readonly info: ExportInfo;
  readonly blockSize: BlockSizeInfo | undefined;
}

function describe({ info, blockSize, ...names }: Described): ExportFacts {
  const limits = blockSize === undefined ? BYTE_LIMITS : limitsOf(blockSize);
  const unreachableBytes = info.sizeBytes % limits.minimumBytes;
  if (unreachableBytes > 0) {
    const message = `the last ${unreachableBytes} bytes of the export cannot be read: its size is no multiple of its minimum block size`;
    throw new ApplianceError('NOT_SUPPORTED', message, {
      details: { sizeBytes: info.sizeBytes, minimumBytes: limits.minimumBytes },
    });
  }
  const hasFlags = (info.transmissionFlags & FLAG.HAS_FLAGS) !== 0;
  return { ...names, sizeBytes: info.sizeBytes, transmissionFlags: hasFlags ? info.transmissionFlags : 0, limits };
}

function limitsOf({ minimumBytes, preferredBytes, maximumBytes }: BlockSizeInfo): BlockLimits {
  const largest = 2 ** Math.floor(Math.log2(Math.min(maximumBytes, MAX_PAYLOAD_BYTES)));
  return { minimumBytes, preferredBytes: Math.min(preferredBytes, largest), maximumBytes: largest };
}
