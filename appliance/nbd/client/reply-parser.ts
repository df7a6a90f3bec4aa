// SPDX-License-Identifier: Apache-2.0
import {
  CHUNK,
  CHUNK_FLAG_DONE,
  CMD,
  EXTENDED_REPLY_BYTES,
  EXTENDED_REPLY_MAGIC,
  MAX_STRING_BYTES,
  NBD_ERRNO,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../protocol.ts';
import type { ReplyMode } from './handshake.ts';
import { decodeText, protocolError } from './option-codec.ts';
import type { Request, StatusExtent } from './request.ts';

/** What the parser needs of its connection. */
export interface ReplyContext {
  readonly replies: ReplyMode;
  /** Names of the selected meta contexts by id; each must answer a block status exactly once. */
  readonly contexts: ReadonlyMap<number, string>;
  /** Requests by cookie that were sent and not answered completely. */
  readonly inFlight: ReadonlyMap<number, Request>;
  /** The last byte of a request's answer was parsed. */
  readonly onDone: (request: Request) => void;
}

const TWO_32 = 2 ** 32;
/** Highest upper half of a number that is a safe integer. */
const MAX_HIGH: number = 2 ** 21 - 1;
/** Descriptors in one block status chunk, by the specification. */
const MAX_DESCRIPTORS: number = 2 ** 20;
/** Error chunks that are known carry at most a message and an offset; unknown ones get a little more room. */
const MAX_ERROR_BYTES: number = 2 * MAX_STRING_BYTES;
/** Below this, one more system call costs more than one more copy. */
const MIN_DIRECT_BYTES = 16_384;
/** What is left of a structured header behind the length of a simple one. */
const STRUCTURED_LENGTH_BYTES = 4;

const KNOWN_ERRNOS: ReadonlySet<number> = new Set(Object.values(NBD_ERRNO));

/** What the next fixed-size part of the stream is. */
type Part = 'header' | 'length' | 'data offset' | 'hole' | 'context' | 'extent' | 'error' | 'payload';

/**
 * Takes a server's transmission phase apart, in pieces of any size, without buffering more than one header or error.
 * Read payloads are copied once, to their place in the request's buffer, or received there (`directTarget`).
 *
 * Throws NBD_PROTOCOL for whatever the specification does not allow; nothing may be fed after that. It refuses more than
 * the specification asks for: a read must be covered completely, each byte once, before it counts as done.
 */
export class ReplyParser {
  readonly #context: ReplyContext;
  readonly #headerBytes: number;
  readonly #extentBytes: number;
  readonly #scratch: Buffer = Buffer.allocUnsafeSlow(MAX_ERROR_BYTES);
  #scratchBytes = 0;

  #part: Part = 'header';
  /** Bytes of the current part; for a payload, those that are missing. */
  #partBytes: number;
  #request: Request | undefined;
  #type = 0;
  #isDone = false;
  /** Of a payload: where its next byte goes in the request's buffer. */
  #position = 0;
  #descriptorsLeft = 0;
  #extents: StatusExtent[] = [];
  #extentsCover = 0;

  constructor(context: ReplyContext) {
    this.#context = context;
    this.#headerBytes = context.replies === 'extended' ? EXTENDED_REPLY_BYTES : SIMPLE_REPLY_BYTES;
    this.#extentBytes = context.replies === 'extended' ? 16 : 8;
    this.#partBytes = this.#headerBytes;
  }

  /** Parses bytes `[start, end)`. */
  feed(buffer: Buffer, start: number, end: number): void {
    let position = start;
    while (position < end) {
      const available = end - position;
      if (this.#part === 'payload') {
        const length = Math.min(this.#partBytes, available);
        const into = this.#current().buffer;
        if (into !== undefined) buffer.copy(into, this.#position, position, position + length);
        position += length;
        this.onDirectBytes(length);
      } else if (this.#scratchBytes === 0 && available >= this.#partBytes) {
        const partStart = position;
        position += this.#partBytes;
        this.#onPart(buffer, partStart);
      } else {
        const length = Math.min(this.#partBytes - this.#scratchBytes, available);
        buffer.copy(this.#scratch, this.#scratchBytes, position, position + length);
        position += length;
        this.#scratchBytes += length;
        if (this.#scratchBytes < this.#partBytes) return;
        this.#scratchBytes = 0;
        this.#onPart(this.#scratch, 0);
      }
    }
  }

  /** The place of the next bytes, when they are a long stretch of payload. */
  directTarget(): Buffer | undefined {
    if (this.#part !== 'payload' || this.#partBytes < MIN_DIRECT_BYTES) return undefined;
    return this.#request?.buffer?.subarray(this.#position, this.#position + this.#partBytes);
  }

  /** `length` bytes of payload are in their place. */
  onDirectBytes(length: number): void {
    this.#position += length;
    this.#partBytes -= length;
    if (this.#partBytes === 0) this.#endChunk();
  }

  #current(): Request {
    if (this.#request === undefined) throw protocolError('a chunk belongs to no request');
    return this.#request;
  }

  #expect(part: Part, bytes: number): void {
    this.#part = part;
    this.#partBytes = bytes;
  }

  #onPart(buffer: Buffer, start: number): void {
    switch (this.#part) {
      case 'header':
        return this.#context.replies === 'extended'
          ? this.#onExtendedHeader(buffer, start)
          : this.#onHeader(buffer, start);
      case 'length':
        return this.#beginChunk(buffer.readUInt32BE(start));
      case 'data offset':
        return this.#onDataOffset(readOffset(buffer, start));
      case 'hole':
        return this.#onHole(readOffset(buffer, start), buffer.readUInt32BE(start + 8));
      case 'context':
        return this.#onContext(buffer, start);
      case 'extent':
        return this.#onExtent(buffer, start);
      case 'error':
        return this.#onError(buffer, start);
      case 'payload':
        throw protocolError('a payload has no fixed size');
    }
  }

  /** 16 bytes: a simple reply, or a structured one without its length. */
  #onHeader(buffer: Buffer, start: number): void {
    const magic = buffer.readUInt32BE(start);
    this.#find(buffer.readUInt32BE(start + 8), buffer.readUInt32BE(start + 12));
    if (magic === SIMPLE_REPLY_MAGIC) return this.#onSimpleReply(buffer.readUInt32BE(start + 4));
    if (magic !== STRUCTURED_REPLY_MAGIC) throw protocolError(`a reply has the magic 0x${magic.toString(16)}`);
    if (this.#context.replies === 'simple') throw protocolError('a structured reply, but none were negotiated');
    this.#isDone = buffer.readUInt16BE(start + 4) % 2 === CHUNK_FLAG_DONE;
    this.#type = buffer.readUInt16BE(start + 6);
    this.#expect('length', STRUCTURED_LENGTH_BYTES);
  }

  #onExtendedHeader(buffer: Buffer, start: number): void {
    const magic = buffer.readUInt32BE(start);
    if (magic !== EXTENDED_REPLY_MAGIC) throw protocolError(`an extended reply has the magic 0x${magic.toString(16)}`);
    this.#isDone = buffer.readUInt16BE(start + 4) % 2 === CHUNK_FLAG_DONE;
    this.#type = buffer.readUInt16BE(start + 6);
    const request = this.#find(buffer.readUInt32BE(start + 8), buffer.readUInt32BE(start + 12));
    if (readOffset(buffer, start + 16) !== request.offset) throw protocolError('a reply names another offset');
    this.#beginChunk(buffer.readUInt32BE(start + 24) * TWO_32 + buffer.readUInt32BE(start + 28));
  }

  #find(high: number, low: number): Request {
    const request = high > MAX_HIGH ? undefined : this.#context.inFlight.get(high * TWO_32 + low);
    if (request === undefined) throw protocolError('a reply has the cookie of no request');
    this.#request = request;
    return request;
  }

  #onSimpleReply(errno: number): void {
    const request = this.#current();
    if (this.#context.replies === 'structured' && request.command === CMD.READ) {
      throw protocolError(`a simple reply to ${request.describe()}, although structured ones were negotiated`);
    }
    this.#isDone = true;
    this.#type = CHUNK.NONE;
    if (errno !== 0) request.error = { errno: knownErrno(errno), message: '', offset: undefined };
    else if (request.command === CMD.READ) return this.#beginPayload(0, request.length);
    this.#endChunk();
  }

  #beginChunk(length: number): void {
    const request = this.#current();
    const type = this.#type;
    if (type === CHUNK.OFFSET_DATA) {
      if (request.command !== CMD.READ || length < 9 || length - 8 > request.length) this.#refuseChunk(length);
      this.#position = length - 8;
      this.#expect('data offset', 8);
    } else if (type === CHUNK.NONE) {
      if (length !== 0 || !this.#isDone) this.#refuseChunk(length);
      this.#endChunk();
    } else if (type === CHUNK.OFFSET_HOLE) {
      if (request.command !== CMD.READ || length !== 12) this.#refuseChunk(length);
      this.#expect('hole', 12);
    } else if (type === CHUNK.BLOCK_STATUS || type === CHUNK.BLOCK_STATUS_EXT) this.#beginStatus(length);
    else if (type >= 0x8000) {
      if (length < 6 || length > MAX_ERROR_BYTES) this.#refuseChunk(length);
      this.#expect('error', length);
    } else this.#refuseChunk(length);
  }

  #refuseChunk(length: number): never {
    throw protocolError(
      `a chunk of type ${this.#type} with ${length} bytes does not belong to ${this.#current().describe()}`,
    );
  }

  #onDataOffset(offset: number): void {
    const length = this.#position;
    const start = offset - this.#current().offset;
    this.#cover(start, length);
    this.#beginPayload(start, length);
  }

  #onHole(offset: number, length: number): void {
    const request = this.#current();
    const start = offset - request.offset;
    if (length === 0) throw protocolError('a hole of 0 bytes');
    this.#cover(start, length);
    request.buffer?.fill(0, start, start + length);
    this.#endChunk();
  }

  #cover(start: number, length: number): void {
    const request = this.#current();
    if (start < 0 || start + length > request.length) {
      throw protocolError(`a chunk lies outside of ${request.describe()}`, { start, length });
    }
    if (request.coverage.add(start, start + length)) return;
    throw protocolError(`${request.describe()} was answered twice in a part`, { start, length });
  }

  #beginPayload(start: number, length: number): void {
    if (this.#type === CHUNK.NONE) this.#cover(start, length);
    this.#position = start;
    if (length === 0) this.#endChunk();
    else this.#expect('payload', length);
  }

  #beginStatus(length: number): void {
    const isExtended = this.#context.replies === 'extended';
    const prefixBytes = isExtended ? 8 : 4;
    const descriptors = (length - prefixBytes) / this.#extentBytes;
    const isValid =
      this.#current().command === CMD.BLOCK_STATUS &&
      this.#type === (isExtended ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS) &&
      Number.isInteger(descriptors) &&
      descriptors >= 1 &&
      descriptors <= MAX_DESCRIPTORS;
    if (!isValid) this.#refuseChunk(length);
    this.#descriptorsLeft = descriptors;
    this.#expect('context', prefixBytes);
  }

  #onContext(buffer: Buffer, start: number): void {
    const request = this.#current();
    const id = buffer.readUInt32BE(start);
    if (this.#context.replies === 'extended' && buffer.readUInt32BE(start + 4) !== this.#descriptorsLeft) {
      throw protocolError('a block status announces another number of extents than it has');
    }
    const name = this.#context.contexts.get(id);
    if (name === undefined) throw protocolError(`a block status for the unknown context ${id}`);
    request.status ??= new Map();
    if (request.status.has(name)) throw protocolError(`the context ${name} answered twice`);
    this.#extents = [];
    this.#extentsCover = 0;
    request.status.set(name, this.#extents);
    this.#expect('extent', this.#extentBytes);
  }

  #onExtent(buffer: Buffer, start: number): void {
    let length: number;
    let flags: number;
    if (this.#extentBytes === 8) {
      length = buffer.readUInt32BE(start);
      flags = buffer.readUInt32BE(start + 4);
    } else {
      // Longer than any disk here is as good as endless: it is cut at the request's end anyway.
      length = buffer.readUInt32BE(start) * TWO_32 + buffer.readUInt32BE(start + 4);
      const high = buffer.readUInt32BE(start + 8);
      if (high > MAX_HIGH) throw protocolError('the flags of an extent exceed 53 bits');
      flags = high * TWO_32 + buffer.readUInt32BE(start + 12);
    }
    if (length === 0) throw protocolError('an extent of 0 bytes');
    this.#extentsCover = this.#current().addExtent(this.#extents, this.#extentsCover, { length, flags });
    this.#descriptorsLeft -= 1;
    if (this.#descriptorsLeft === 0) this.#endChunk();
  }

  #onError(buffer: Buffer, start: number): void {
    const length = this.#partBytes;
    const errno = buffer.readUInt32BE(start);
    const messageBytes = buffer.readUInt16BE(start + 4);
    const hasOffset = this.#type === CHUNK.ERROR_OFFSET;
    if (errno === 0) throw protocolError('an error reply says that there is no error');
    if (messageBytes > MAX_STRING_BYTES || messageBytes > length - (hasOffset ? 14 : 6)) this.#refuseChunk(length);
    const message = decodeText(buffer.subarray(start + 6, start + 6 + messageBytes));
    const offset = hasOffset ? readOffset(buffer, start + 6 + messageBytes) : undefined;
    // The first error of a request is the one that it fails with.
    this.#current().error ??= { errno: knownErrno(errno), message, offset };
    this.#endChunk();
  }

  #endChunk(): void {
    const request = this.#current();
    this.#expect('header', this.#headerBytes);
    this.#request = undefined;
    if (!this.#isDone) return;
    if (request.error === undefined) this.#checkComplete(request);
    this.#context.onDone(request);
  }

  #checkComplete(request: Request): void {
    if (request.command === CMD.READ && !request.coverage.isComplete(request.length)) {
      throw protocolError(`${request.describe()} was not answered completely`);
    }
    if (request.command !== CMD.BLOCK_STATUS) return;
    const answered = request.status?.size ?? 0;
    if (answered === this.#context.contexts.size && answered > 0) return;
    throw protocolError(
      `${request.describe()} was answered for ${answered} of ${this.#context.contexts.size} contexts`,
    );
  }
}

/** A 64-bit offset; one that is no safe integer lies outside of everything. */
function readOffset(buffer: Buffer, start: number): number {
  return buffer.readUInt32BE(start) * TWO_32 + buffer.readUInt32BE(start + 4);
}

function knownErrno(errno: number): number {
  return KNOWN_ERRNOS.has(errno) ? errno : NBD_ERRNO.EINVAL;
}
