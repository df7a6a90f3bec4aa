// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import { IHAVEOPT, INFO, MAX_STRING_BYTES } from '../protocol.ts';

/** One option reply; `data` is only valid until the handshake goes on. */
export interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

export interface ExportInfo {
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
}

/** The constraints that INFO_BLOCK_SIZE carries, as the server said them. */
export interface BlockSizeInfo {
  readonly minimumBytes: number;
  readonly preferredBytes: number;
  readonly maximumBytes: number;
}

/** Longest payload of an option reply: a name, a description of the same limit, and their lengths. */
export const MAX_OPTION_REPLY_BYTES: number = 4 * MAX_STRING_BYTES;

const TWO_32 = 2 ** 32;
const EXPORT_INFO_BYTES = 12;
const BLOCK_SIZE_INFO_BYTES = 14;
const MAX_MINIMUM_BYTES = 65_536;
const MIN_PREFERRED_BYTES = 512;

/** An NBD_PROTOCOL error: what the peer did that the protocol does not allow. */
export function protocolError(statement: string, details: Readonly<Record<string, unknown>> = {}): ApplianceError {
  return new ApplianceError('NBD_PROTOCOL', `the NBD server broke the protocol: ${statement}`, { details });
}

/** An option request: magic, option, length, data. */
export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const message = Buffer.allocUnsafe(16 + data.length);
  message.writeBigUInt64BE(IHAVEOPT, 0);
  message.writeUInt32BE(option, 8);
  message.writeUInt32BE(data.length, 12);
  data.copy(message, 16);
  return message;
}

/** Data of NBD_OPT_INFO and NBD_OPT_GO. */
export function encodeInfoRequest(exportName: string, infoTypes: readonly number[]): Buffer {
  const name = Buffer.from(exportName);
  const data = Buffer.allocUnsafe(6 + name.length + 2 * infoTypes.length);
  data.writeUInt32BE(name.length, 0);
  name.copy(data, 4);
  let offset = 4 + name.length;
  offset = data.writeUInt16BE(infoTypes.length, offset);
  for (const type of infoTypes) offset = data.writeUInt16BE(type, offset);
  return data;
}

/** Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export function encodeMetaRequest(exportName: string, queries: readonly string[]): Buffer {
  const parts: Buffer[] = [];
  const push = (text: string): void => {
    const bytes = Buffer.from(text);
    const length = Buffer.allocUnsafe(4);
    length.writeUInt32BE(bytes.length);
    parts.push(length, bytes);
  };
  push(exportName);
  const count = Buffer.allocUnsafe(4);
  count.writeUInt32BE(queries.length);
  parts.push(count);
  for (const query of queries) push(query);
  return Buffer.concat(parts);
}

/** NBD_REP_SERVER: an export's name and, behind it, a description that older servers leave out. */
export function decodeListEntry(data: Buffer): { name: string; description?: string } {
  if (data.length < 4) throw protocolError('a list entry is too short');
  const nameBytes = data.readUInt32BE(0);
  if (nameBytes > data.length - 4) throw protocolError('the name of a list entry exceeds its reply');
  const description = decodeText(data.subarray(4 + nameBytes));
  return { name: data.toString('utf8', 4, 4 + nameBytes), ...(description === '' ? {} : { description }) };
}

/** NBD_REP_META_CONTEXT. */
export function decodeMetaContext(data: Buffer): { id: number; name: string } {
  if (data.length < 5) throw protocolError('a meta context reply is too short');
  if (data.length > 4 + MAX_STRING_BYTES) throw protocolError('the name of a meta context is too long');
  return { id: data.readUInt32BE(0), name: data.toString('utf8', 4) };
}

/** NBD_INFO_EXPORT. Sizes from 2^53 bytes on are refused: they do not fit this appliance's offsets. */
export function decodeExportInfo(data: Buffer): ExportInfo {
  if (data.length !== EXPORT_INFO_BYTES) throw protocolError('INFO_EXPORT does not have 12 bytes');
  return decodeSizeAndFlags(data.subarray(2));
}

/** The ten bytes of size and transmission flags, shared by INFO_EXPORT and the answer to EXPORT_NAME. */
export function decodeSizeAndFlags(data: Buffer): ExportInfo {
  const high = data.readUInt32BE(0);
  if (high >= 2 ** 31) throw protocolError('the export size is 2^63 bytes or more');
  const sizeBytes = high * TWO_32 + data.readUInt32BE(4);
  if (!Number.isSafeInteger(sizeBytes)) {
    throw new ApplianceError('NOT_SUPPORTED', 'the export is larger than 2^53 - 1 bytes');
  }
  return { sizeBytes, transmissionFlags: data.readUInt16BE(8) };
}

/** NBD_INFO_BLOCK_SIZE, checked against the limits of the specification's "Size constraints". */
export function decodeBlockSizeInfo(data: Buffer): BlockSizeInfo {
  if (data.length !== BLOCK_SIZE_INFO_BYTES) throw protocolError('INFO_BLOCK_SIZE does not have 14 bytes');
  const minimumBytes = data.readUInt32BE(2);
  const preferredBytes = data.readUInt32BE(6);
  const maximumBytes = data.readUInt32BE(10);
  const isValid =
    isPowerOfTwo(minimumBytes) &&
    minimumBytes <= MAX_MINIMUM_BYTES &&
    isPowerOfTwo(preferredBytes) &&
    preferredBytes >= Math.max(minimumBytes, MIN_PREFERRED_BYTES) &&
    maximumBytes >= preferredBytes;
  if (isValid) return { minimumBytes, preferredBytes, maximumBytes };
  throw protocolError('its block sizes are impossible', { minimumBytes, preferredBytes, maximumBytes });
}

/** NBD_INFO_NAME and NBD_INFO_DESCRIPTION. */
export function decodeInfoText(data: Buffer): string {
  if (data.length > 2 + MAX_STRING_BYTES) throw protocolError('the text of an info reply is too long');
  return decodeText(data.subarray(2));
}

/** A peer's text for people: invalid UTF-8 and control characters are replaced, so that it may be printed. */
export function decodeText(data: Uint8Array): string {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength)
    .toString('utf8')
    .replaceAll(/\p{Cc}/gu, '\u{fffd}');
}

/** The known info types have names; used in messages only. */
export function infoName(type: number): string {
  return Object.entries(INFO).find(([, value]) => value === type)?.[0] ?? String(type);
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}
