// SPDX-License-Identifier: Apache-2.0
import { CMD, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC } from '../protocol.ts';

/** How a connection frames requests and replies, as negotiated. */
export type ReplyStyle = 'simple' | 'structured' | 'extended';

/**
 * One request as it stood on the wire. `offset` and `length` are exact up to 2^53 - 1 and above that only good for being
 * refused; cookie and offset are kept in halves to be sent back as they came.
 */
export interface Request {
  readonly flags: number;
  readonly type: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
  readonly offset: number;
  readonly length: number;
}

const TWO_32 = 0x1_0000_0000;

/** Decodes a compact request of 28 bytes; undefined when the magic is wrong. (proto.md, "Request message") */
export function decodeRequest(buffer: Buffer, at: number): Request | undefined {
  if (buffer.readUInt32BE(at) !== REQUEST_MAGIC) return undefined;
  const offsetHigh = buffer.readUInt32BE(at + 16);
  const offsetLow = buffer.readUInt32BE(at + 20);
  return {
    flags: buffer.readUInt16BE(at + 4),
    type: buffer.readUInt16BE(at + 6),
    cookieHigh: buffer.readUInt32BE(at + 8),
    cookieLow: buffer.readUInt32BE(at + 12),
    offsetHigh,
    offsetLow,
    offset: offsetHigh * TWO_32 + offsetLow,
    length: buffer.readUInt32BE(at + 24),
  };
}

/** Decodes an extended request of 32 bytes; undefined when the magic is wrong. (extension-ext-header, "Request message") */
export function decodeExtendedRequest(buffer: Buffer, at: number): Request | undefined {
  if (buffer.readUInt32BE(at) !== EXTENDED_REQUEST_MAGIC) return undefined;
  const offsetHigh = buffer.readUInt32BE(at + 16);
  const offsetLow = buffer.readUInt32BE(at + 20);
  return {
    flags: buffer.readUInt16BE(at + 4),
    type: buffer.readUInt16BE(at + 6),
    cookieHigh: buffer.readUInt32BE(at + 8),
    cookieLow: buffer.readUInt32BE(at + 12),
    offsetHigh,
    offsetLow,
    offset: offsetHigh * TWO_32 + offsetLow,
    length: buffer.readUInt32BE(at + 24) * TWO_32 + buffer.readUInt32BE(at + 28),
  };
}

/** What a request is called in messages. */
export function commandName(type: number): string {
  const entry = Object.entries(CMD).find(([, value]) => value === type);
  return entry === undefined ? `command ${type}` : entry[0].toLowerCase().replaceAll('_', ' ');
}
