// SPDX-License-Identifier: Apache-2.0
import {
  CHUNK,
  CHUNK_FLAG_DONE,
  CMD,
  EXTENDED_REPLY_BYTES,
  EXTENDED_REPLY_MAGIC,
  MAX_STRING_BYTES,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_BYTES,
  STRUCTURED_REPLY_MAGIC,
} from '../protocol.ts';
import type { Outbox, Piece } from './outbox.ts';
import type { ReplyStyle, Request } from './request.ts';

/** One run of a meta context, in the order of the disk. */
export interface ContextExtent {
  readonly length: number;
  /** 32 bits for the contexts that exist today. */
  readonly status: number;
}

/** What one selected context says about the range of a block status request. */
export interface ContextAnswer {
  readonly contextId: number;
  readonly extents: readonly ContextExtent[];
}

const TWO_32 = 0x1_0000_0000;
const OFFSET_BYTES = 8;
const READ_HEADER_BYTES: Readonly<Record<ReplyStyle, number>> = {
  simple: SIMPLE_REPLY_BYTES,
  structured: STRUCTURED_REPLY_BYTES + OFFSET_BYTES,
  extended: EXTENDED_REPLY_BYTES + OFFSET_BYTES,
};

/**
 * Encodes replies of one connection straight into its outbox, in the style that was negotiated. (proto.md, "Simple reply
 * message", "Structured reply chunk message"; extension-ext-header, "Extended reply chunk message")
 */
export class ReplyWriter {
  readonly #outbox: Outbox;
  readonly #style: ReplyStyle;
  /** Bytes in front of the payload of a read. */
  readonly readHeaderBytes: number;

  constructor(outbox: Outbox, style: ReplyStyle) {
    this.#outbox = outbox;
    this.#style = style;
    this.readHeaderBytes = READ_HEADER_BYTES[style];
  }

  /** Room for the reply of a read; the payload belongs behind `readHeaderBytes`. */
  reserveRead(request: Request): Piece {
    return this.#outbox.reserve(this.readHeaderBytes + request.length);
  }

  /** Sends a read whose payload fills the piece. Everything is in one chunk, so that DF needs no care. */
  sendRead(request: Request, piece: Piece, costBytes: number): void {
    const { view } = piece.slab;
    const at = piece.start;
    if (this.#style === 'simple') writeSimple(view, at, request, 0);
    else {
      const header = this.#writeChunk(piece, at, request, {
        type: CHUNK.OFFSET_DATA,
        isLast: true,
        length: OFFSET_BYTES + request.length,
      });
      view.setUint32(at + header, request.offsetHigh);
      view.setUint32(at + header + 4, request.offsetLow);
    }
    this.#outbox.push(piece, costBytes);
  }

  /** Success of everything without payload, an empty read included. */
  sendOk(request: Request, costBytes: number): void {
    const isSimple = this.#style === 'simple' || (this.#style === 'structured' && request.type !== CMD.READ);
    const piece = this.#outbox.reserve(isSimple ? SIMPLE_REPLY_BYTES : this.#chunkHeaderBytes);
    if (isSimple) writeSimple(piece.slab.view, piece.start, request, 0);
    else this.#writeChunk(piece, piece.start, request, { type: CHUNK.NONE, isLast: true, length: 0 });
    this.#outbox.push(piece, costBytes);
  }

  /** Failure; the message goes along where the style has room for it. */
  sendError(request: Request, failure: { errno: number; message: string }, costBytes: number): void {
    if (this.#style === 'simple') {
      const piece = this.#outbox.reserve(SIMPLE_REPLY_BYTES);
      writeSimple(piece.slab.view, piece.start, request, failure.errno);
      this.#outbox.push(piece, costBytes);
      return;
    }
    const message = utf8Prefix(failure.message, MAX_STRING_BYTES);
    const piece = this.#outbox.reserve(this.#chunkHeaderBytes + 6 + message.length);
    const { view, buffer } = piece.slab;
    const at =
      piece.start +
      this.#writeChunk(piece, piece.start, request, { type: CHUNK.ERROR, isLast: true, length: 6 + message.length });
    view.setUint32(at, failure.errno);
    view.setUint16(at + 4, message.length);
    message.copy(buffer, at + 6);
    this.#outbox.push(piece, costBytes);
  }

  /** One chunk per selected context; lengths are those of the wire already (below 2^32 unless extended). */
  sendBlockStatus(request: Request, answers: readonly ContextAnswer[], costBytes: number): void {
    const isExtended = this.#style === 'extended';
    const payloadOf = (answer: ContextAnswer): number =>
      isExtended ? 8 + 16 * answer.extents.length : 4 + 8 * answer.extents.length;
    let total = 0;
    for (const answer of answers) total += this.#chunkHeaderBytes + payloadOf(answer);
    const piece = this.#outbox.reserve(total);
    let at = piece.start;
    answers.forEach((answer, index) => {
      const type = isExtended ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS;
      const isLast = index === answers.length - 1;
      at += this.#writeChunk(piece, at, request, { type, isLast, length: payloadOf(answer) });
      at = isExtended ? writeExtendedExtents(piece, at, answer) : writeExtents(piece, at, answer);
    });
    this.#outbox.push(piece, costBytes);
  }

  get #chunkHeaderBytes(): number {
    return this.#style === 'extended' ? EXTENDED_REPLY_BYTES : STRUCTURED_REPLY_BYTES;
  }

  /** Writes the header of a chunk; returns its length. */
  #writeChunk(
    piece: Piece,
    at: number,
    request: Request,
    chunk: { readonly type: number; readonly isLast: boolean; readonly length: number },
  ): number {
    const { view } = piece.slab;
    const isExtended = this.#style === 'extended';
    view.setUint32(at, isExtended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
    view.setUint16(at + 4, chunk.isLast ? CHUNK_FLAG_DONE : 0);
    view.setUint16(at + 6, chunk.type);
    view.setUint32(at + 8, request.cookieHigh);
    view.setUint32(at + 12, request.cookieLow);
    if (!isExtended) {
      view.setUint32(at + 16, chunk.length);
      return STRUCTURED_REPLY_BYTES;
    }
    view.setUint32(at + 16, request.offsetHigh);
    view.setUint32(at + 20, request.offsetLow);
    view.setUint32(at + 24, 0);
    view.setUint32(at + 28, chunk.length);
    return EXTENDED_REPLY_BYTES;
  }
}

function writeSimple(view: DataView, at: number, request: Request, errno: number): void {
  view.setUint32(at, SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, errno);
  view.setUint32(at + 8, request.cookieHigh);
  view.setUint32(at + 12, request.cookieLow);
}

function writeExtents(piece: Piece, start: number, answer: ContextAnswer): number {
  const { view } = piece.slab;
  view.setUint32(start, answer.contextId);
  let at = start + 4;
  for (const extent of answer.extents) {
    view.setUint32(at, extent.length);
    view.setUint32(at + 4, extent.status);
    at += 8;
  }
  return at;
}

function writeExtendedExtents(piece: Piece, start: number, answer: ContextAnswer): number {
  const { view } = piece.slab;
  view.setUint32(start, answer.contextId);
  view.setUint32(start + 4, answer.extents.length);
  let at = start + 8;
  for (const extent of answer.extents) {
    view.setUint32(at, Math.floor(extent.length / TWO_32));
    view.setUint32(at + 4, extent.length % TWO_32);
    view.setUint32(at + 8, 0);
    view.setUint32(at + 12, extent.status);
    at += 16;
  }
  return at;
}

/** The longest prefix of whole characters that fits. */
export function utf8Prefix(text: string, maxBytes: number): Buffer {
  const bytes = Buffer.from(text.replaceAll('\0', ''), 'utf8');
  if (bytes.length <= maxBytes) return bytes;
  let end = maxBytes;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end);
}
