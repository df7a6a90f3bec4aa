// SPDX-License-Identifier: Apache-2.0
import { isUtf8 } from 'node:buffer';
import { INFO, MAX_STRING_BYTES, OPTION_REPLY_MAGIC } from '../protocol.ts';

/** Data of INFO and GO. */
export interface InfoRequest {
  readonly name: string;
  readonly infos: ReadonlySet<number>;
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface MetaRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

/** Why option data was refused. */
export type Malformed = 'malformed' | 'too long';

/** A string of the wire: UTF-8 without NUL; undefined when it is not. (proto.md, "Strings") */
function decodeString(bytes: Buffer): string | undefined {
  return isUtf8(bytes) && !bytes.includes(0) ? bytes.toString('utf8') : undefined;
}

/** Decodes the data of INFO and GO; every length must fit exactly. */
export function decodeInfoRequest(data: Buffer): InfoRequest | Malformed {
  if (data.length < 6) return 'malformed';
  const nameBytes = data.readUInt32BE(0);
  if (nameBytes > data.length - 6) return 'malformed';
  if (nameBytes > MAX_STRING_BYTES) return 'too long';
  const name = decodeString(data.subarray(4, 4 + nameBytes));
  const count = data.readUInt16BE(4 + nameBytes);
  if (name === undefined || data.length !== 6 + nameBytes + 2 * count) return 'malformed';
  const infos = new Set<number>();
  for (let index = 0; index < count; index++) infos.add(data.readUInt16BE(6 + nameBytes + 2 * index));
  return { name, infos };
}

/** Decodes the data of LIST_META_CONTEXT and SET_META_CONTEXT; every length must fit exactly. */
export function decodeMetaRequest(data: Buffer): MetaRequest | Malformed {
  const strings: string[] = [];
  let at = 0;
  const next = (): Malformed | undefined => {
    if (data.length - at < 4) return 'malformed';
    const bytes = data.readUInt32BE(at);
    at += 4;
    if (bytes > data.length - at) return 'malformed';
    if (bytes > MAX_STRING_BYTES) return 'too long';
    const text = decodeString(data.subarray(at, at + bytes));
    if (text === undefined) return 'malformed';
    at += bytes;
    strings.push(text);
    return undefined;
  };
  const nameProblem = next();
  if (nameProblem !== undefined) return nameProblem;
  if (data.length - at < 4) return 'malformed';
  const count = data.readUInt32BE(at);
  at += 4;
  for (let index = 0; index < count; index++) {
    const problem = next();
    if (problem !== undefined) return problem;
  }
  if (at !== data.length) return 'malformed';
  const [name = '', ...queries] = strings;
  return { name, queries };
}

/** One reply to an option. (proto.md, "Fixed newstyle negotiation") */
export function optionReply(option: number, type: number, data: Buffer = EMPTY): Buffer {
  const reply = Buffer.alloc(20 + data.length);
  reply.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  reply.writeUInt32BE(option, 8);
  reply.writeUInt32BE(type, 12);
  reply.writeUInt32BE(data.length, 16);
  data.copy(reply, 20);
  return reply;
}

/** Data of REP_SERVER: the name with its length, then the description. */
export function serverData(name: string, description: string): Buffer {
  const nameBytes = Buffer.from(name);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(nameBytes.length, 0);
  return Buffer.concat([length, nameBytes, Buffer.from(description)]);
}

/** Data of INFO_EXPORT. */
export function exportInfo(sizeBytes: number, flags: number): Buffer {
  const data = Buffer.alloc(12);
  data.writeUInt16BE(INFO.EXPORT, 0);
  data.writeBigUInt64BE(BigInt(sizeBytes), 2);
  data.writeUInt16BE(flags, 10);
  return data;
}

/** Data of INFO_NAME and INFO_DESCRIPTION. */
export function textInfo(type: number, text: string): Buffer {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(type, 0);
  return Buffer.concat([head, Buffer.from(text)]);
}

/** Data of INFO_BLOCK_SIZE. */
export function blockSizeInfo(limits: { minimumBytes: number; preferredBytes: number; maximumBytes: number }): Buffer {
  const data = Buffer.alloc(14);
  data.writeUInt16BE(INFO.BLOCK_SIZE, 0);
  data.writeUInt32BE(limits.minimumBytes, 2);
  data.writeUInt32BE(limits.preferredBytes, 6);
  data.writeUInt32BE(limits.maximumBytes, 10);
  return data;
}

/** Data of REP_META_CONTEXT. */
export function metaContextData(id: number, name: string): Buffer {
  const data = Buffer.alloc(4);
  data.writeUInt32BE(id, 0);
  return Buffer.concat([data, Buffer.from(name)]);
}

const EMPTY: Buffer = Buffer.alloc(0);
