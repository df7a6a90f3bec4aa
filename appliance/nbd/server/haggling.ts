// SPDX-License-Identifier: Apache-2.0
import { HANDSHAKE_FLAG, IHAVEOPT, INFO, MAX_STRING_BYTES, NBDMAGIC, OPT, REP } from '../protocol.ts';
import type { ByteQueue } from './byte-queue.ts';
import { MAX_SKIPPED_BYTES, type ServerLimits } from './limits.ts';
import { listedContexts, selectedContexts } from './meta-queries.ts';
import type { MetaContextSource, NbdExport } from './nbd-export.ts';
import {
  blockSizeInfo,
  decodeInfoRequest,
  decodeMetaRequest,
  exportInfo,
  type Malformed,
  metaContextData,
  optionReply,
  serverData,
  textInfo,
} from './option-wire.ts';
import type { ReplyStyle } from './request.ts';

/** A meta context that the client selected. */
export interface SelectedContext {
  readonly id: number;
  readonly name: string;
  readonly source: MetaContextSource;
}

/** What was negotiated when transmission begins. */
export interface Session {
  readonly export: NbdExport;
  readonly style: ReplyStyle;
  /** Transmission flags as sent. */
  readonly flags: number;
  readonly contexts: readonly SelectedContext[];
  /** The client asked for the block size constraints, so it must keep them. */
  readonly knowsBlockSize: boolean;
}

/** What the haggling needs from its surroundings. */
export interface HagglingHost {
  readonly limits: ServerLimits;
  /** TLS is offered, and required (FORCEDTLS); otherwise NOTLS. */
  readonly isTlsRequired: boolean;
  readonly isShuttingDown: boolean;
  findExport(name: string): NbdExport | undefined;
  listedExports(): Iterable<NbdExport>;
  send(bytes: Buffer): void;
}

/** What happened in one step. */
export type HaggleStep =
  | { readonly kind: 'starved' }
  | { readonly kind: 'next' }
  | { readonly kind: 'secure' }
  | { readonly kind: 'transmit'; readonly session: Session }
  | { readonly kind: 'close'; readonly violation?: string };

const STARVED: HaggleStep = { kind: 'starved' };
const NEXT: HaggleStep = { kind: 'next' };
const CLIENT_FLAGS_BYTES = 4;
const OPTION_HEADER_BYTES = 16;
const IHAVEOPT_HIGH = Number(IHAVEOPT >> 32n);
const IHAVEOPT_LOW = Number(IHAVEOPT & 0xffffffffn);
const KNOWN_CLIENT_FLAGS: number = HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES;

/** The greeting of a fixed newstyle server: magics and handshake flags. */
export function greeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(NBDMAGIC, 0);
  bytes.writeBigUInt64BE(IHAVEOPT, 8);
  bytes.writeUInt16BE(KNOWN_CLIENT_FLAGS, 16);
  return bytes;
}

/**
 * The handshake of one connection after the greeting: takes one option after the other from what has arrived and
 * answers it. Holds no more than one option. (proto.md, "Fixed newstyle negotiation", "Option types")
 */
export class Haggling {
  readonly #host: HagglingHost;
  #clientFlags: number | undefined;
  #skipping: { left: number; readonly option: number } | undefined;
  #isSecure = false;
  #style: ReplyStyle = 'simple';
  #selection: { readonly export: NbdExport; readonly contexts: readonly SelectedContext[] } | undefined;

  constructor(host: HagglingHost) {
    this.#host = host;
  }

  /** After the TLS handshake: everything that was negotiated in plain text is forgotten. */
  restartSecured(): void {
    this.#isSecure = true;
    this.#style = 'simple';
    this.#selection = undefined;
  }

  /** Processes at most one option. `starved`: nothing to do before more bytes come. */
  step(input: ByteQueue): HaggleStep {
    if (this.#clientFlags === undefined) return this.#takeFlags(input);
    if (this.#skipping !== undefined) return this.#skip(input, this.#skipping);
    if (!input.hasHead(OPTION_HEADER_BYTES)) return STARVED;
    const { buffer, offset } = input;
    if (buffer.readUInt32BE(offset) !== IHAVEOPT_HIGH || buffer.readUInt32BE(offset + 4) !== IHAVEOPT_LOW) {
      return close('an option does not start with the magic number');
    }
    const option = buffer.readUInt32BE(offset + 8);
    const length = buffer.readUInt32BE(offset + 12);
    if (length > MAX_SKIPPED_BYTES) return close(`an option of ${length} bytes`);
    if (length > this.#host.limits.maxOptionBytes) {
      if (option === OPT.EXPORT_NAME) return close(`an export name of ${length} bytes`);
      input.skip(OPTION_HEADER_BYTES);
      this.#skipping = { left: length, option };
      return NEXT;
    }
    if (input.length < OPTION_HEADER_BYTES + length) return STARVED;
    input.skip(OPTION_HEADER_BYTES);
    return this.#answer(option, input.take(length));
  }

  #takeFlags(input: ByteQueue): HaggleStep {
    if (!input.hasHead(CLIENT_FLAGS_BYTES)) return STARVED;
    const flags = input.take(CLIENT_FLAGS_BYTES).readUInt32BE(0);
    // The comparison is unsigned on purpose: bit 31 must count as unknown too.
    if (flags > KNOWN_CLIENT_FLAGS) return close(`unknown client flags 0x${flags.toString(16)}`);
    this.#clientFlags = flags;
    return NEXT;
  }

  #skip(input: ByteQueue, skipping: { left: number; readonly option: number }): HaggleStep {
    skipping.left -= input.skip(skipping.left);
    if (skipping.left > 0) return STARVED;
    this.#skipping = undefined;
    if (this.#needsTls(skipping.option)) return this.#refuse(skipping.option, REP.ERR_TLS_REQD, 'use STARTTLS first');
    return this.#refuse(skipping.option, REP.ERR_TOO_BIG, 'the option is too long');
  }

  #needsTls(option: number): boolean {
    if (!this.#host.isTlsRequired || this.#isSecure) return false;
    return option !== OPT.STARTTLS && option !== OPT.ABORT;
  }

  #answer(option: number, data: Buffer): HaggleStep {
    if (option === OPT.EXPORT_NAME) return this.#exportName(data);
    const isFixed = ((this.#clientFlags ?? 0) & HANDSHAKE_FLAG.FIXED_NEWSTYLE) !== 0;
    if (!isFixed) return close(`option ${option} of a client without fixed newstyle`);
    if (option === OPT.ABORT) {
      this.#reply(option, REP.ACK);
      return { kind: 'close' };
    }
    if (this.#needsTls(option)) return this.#refuse(option, REP.ERR_TLS_REQD, 'use STARTTLS first');
    if (this.#host.isShuttingDown) return this.#refuse(option, REP.ERR_SHUTDOWN, 'the server is shutting down');
    switch (option) {
      case OPT.STARTTLS:
        return this.#startTls(data);
      case OPT.LIST:
        return this.#list(data);
      case OPT.INFO:
      case OPT.GO:
        return this.#go(option, data);
      case OPT.STRUCTURED_REPLY:
        return this.#structuredReply(data);
      case OPT.EXTENDED_HEADERS:
        return this.#extendedHeaders(data);
      case OPT.LIST_META_CONTEXT:
        return this.#listContexts(data);
      case OPT.SET_META_CONTEXT:
        return this.#setContexts(data);
      default:
        return this.#refuse(option, REP.ERR_UNSUP, 'the option is not known');
    }
  }

  #startTls(data: Buffer): HaggleStep {
    if (!this.#host.isTlsRequired) return this.#refuse(OPT.STARTTLS, REP.ERR_POLICY, 'TLS is not configured');
    if (this.#isSecure) return this.#refuse(OPT.STARTTLS, REP.ERR_INVALID, 'TLS is in use already');
    if (data.length > 0) return this.#refuse(OPT.STARTTLS, REP.ERR_INVALID, 'the option takes no data');
    this.#reply(OPT.STARTTLS, REP.ACK);
    return { kind: 'secure' };
  }

  #list(data: Buffer): HaggleStep {
    if (data.length > 0) return this.#refuse(OPT.LIST, REP.ERR_INVALID, 'the option takes no data');
    for (const each of this.#host.listedExports()) {
      this.#reply(OPT.LIST, REP.SERVER, serverData(each.name, each.description));
    }
    this.#reply(OPT.LIST, REP.ACK);
    return NEXT;
  }

  #structuredReply(data: Buffer): HaggleStep {
    const option = OPT.STRUCTURED_REPLY;
    if (data.length > 0) return this.#refuse(option, REP.ERR_INVALID, 'the option takes no data');
    if (this.#style === 'extended') {
      return this.#refuse(option, REP.ERR_EXT_HEADER_REQD, 'extended headers were negotiated');
    }
    if (this.#style === 'structured') return this.#refuse(option, REP.ERR_INVALID, 'negotiated already');
    this.#style = 'structured';
    this.#reply(option, REP.ACK);
    return NEXT;
  }

  #extendedHeaders(data: Buffer): HaggleStep {
    const option = OPT.EXTENDED_HEADERS;
    if (data.length > 0) return this.#refuse(option, REP.ERR_INVALID, 'the option takes no data');
    if (this.#style === 'extended') return this.#refuse(option, REP.ERR_INVALID, 'negotiated already');
    this.#style = 'extended';
    this.#reply(option, REP.ACK);
    return NEXT;
  }

  #exportName(data: Buffer): HaggleStep {
    if (this.#needsTls(OPT.EXPORT_NAME)) return close('EXPORT_NAME without TLS');
    if (this.#host.isShuttingDown) return { kind: 'close' };
    if (this.#style === 'extended') return close('EXPORT_NAME after extended headers');
    if (data.length > MAX_STRING_BYTES) return close(`an export name of ${data.length} bytes`);
    const name = data.toString('utf8');
    const found = this.#host.findExport(name);
    if (found === undefined) return close('EXPORT_NAME of an unknown export');
    const hasNoZeroes = ((this.#clientFlags ?? 0) & HANDSHAKE_FLAG.NO_ZEROES) !== 0;
    const reply = Buffer.alloc(hasNoZeroes ? 10 : 134);
    reply.writeBigUInt64BE(BigInt(found.sizeBytes), 0);
    reply.writeUInt16BE(this.#flagsOf(found), 8);
    this.#host.send(reply);
    return { kind: 'transmit', session: this.#session(found, false) };
  }

  #go(option: number, data: Buffer): HaggleStep {
    const request = decodeInfoRequest(data);
    if (typeof request === 'string') return this.#refuseMalformed(option, request);
    const found = this.#host.findExport(request.name);
    if (found === undefined) return this.#refuse(option, REP.ERR_UNKNOWN, 'there is no export of that name');
    this.#reply(option, REP.INFO, exportInfo(found.sizeBytes, this.#flagsOf(found)));
    if (request.infos.has(INFO.NAME)) this.#reply(option, REP.INFO, textInfo(INFO.NAME, found.name));
    if (request.infos.has(INFO.DESCRIPTION) && found.description !== '') {
      this.#reply(option, REP.INFO, textInfo(INFO.DESCRIPTION, found.description));
    }
    const knowsBlockSize = request.infos.has(INFO.BLOCK_SIZE);
    if (knowsBlockSize) this.#reply(option, REP.INFO, blockSizeInfo(found.limits));
    this.#reply(option, REP.ACK);
    return option === OPT.GO ? { kind: 'transmit', session: this.#session(found, knowsBlockSize) } : NEXT;
  }

  /** Contexts count only for the very export for which they were selected. */
  #contextsOf(found: NbdExport): readonly SelectedContext[] {
    return this.#selection?.export === found ? this.#selection.contexts : [];
  }

  #flagsOf(found: NbdExport): number {
    return found.flags(this.#style, this.#contextsOf(found).length > 0);
  }

  #session(found: NbdExport, knowsBlockSize: boolean): Session {
    const contexts = this.#contextsOf(found);
    return { export: found, style: this.#style, flags: this.#flagsOf(found), contexts, knowsBlockSize };
  }

  #listContexts(data: Buffer): HaggleStep {
    const option = OPT.LIST_META_CONTEXT;
    if (this.#style === 'simple') {
      return this.#refuse(option, REP.ERR_INVALID, 'structured replies were not negotiated');
    }
    const request = decodeMetaRequest(data);
    if (typeof request === 'string') return this.#refuseMalformed(option, request);
    const found = this.#host.findExport(request.name);
    if (found === undefined) return this.#refuse(option, REP.ERR_UNKNOWN, 'there is no export of that name');
    for (const name of listedContexts(found.contexts.keys(), request.queries)) {
      this.#reply(option, REP.META_CONTEXT, metaContextData(0, name));
    }
    this.#reply(option, REP.ACK);
    return NEXT;
  }

  #setContexts(data: Buffer): HaggleStep {
    const option = OPT.SET_META_CONTEXT;
    this.#selection = undefined;
    if (this.#style === 'simple') {
      return this.#refuse(option, REP.ERR_INVALID, 'structured replies were not negotiated');
    }
    const request = decodeMetaRequest(data);
    if (typeof request === 'string') return this.#refuseMalformed(option, request);
    const found = this.#host.findExport(request.name);
    if (found === undefined) return this.#refuse(option, REP.ERR_UNKNOWN, 'there is no export of that name');
    const names = selectedContexts(found.contexts.keys(), request.queries);
    if (names.length > this.#host.limits.maxMetaContexts) {
      return this.#refuse(option, REP.ERR_TOO_BIG, 'too many contexts at once');
    }
    const contexts: SelectedContext[] = [];
    for (const name of names) {
      const source = found.contexts.get(name);
      if (source !== undefined) contexts.push({ id: contexts.length + 1, name, source });
    }
    for (const context of contexts) {
      this.#reply(option, REP.META_CONTEXT, metaContextData(context.id, context.name));
    }
    this.#reply(option, REP.ACK);
    this.#selection = { export: found, contexts };
    return NEXT;
  }

  #refuseMalformed(option: number, problem: Malformed): HaggleStep {
    if (problem === 'too long') return this.#refuse(option, REP.ERR_TOO_BIG, 'a string of more than 4096 bytes');
    return this.#refuse(option, REP.ERR_INVALID, 'the data of the option is malformed');
  }

  #refuse(option: number, error: number, message: string): HaggleStep {
    this.#reply(option, error, Buffer.from(message));
    return NEXT;
  }

  #reply(option: number, type: number, data?: Buffer): void {
    this.#host.send(optionReply(option, type, data));
  }
}

function close(violation: string): HaggleStep {
  return { kind: 'close', violation };
}
