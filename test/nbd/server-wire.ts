// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import {
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_MAGIC,
  IHAVEOPT,
  OPT,
  OPTION_REPLY_MAGIC,
  REP,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../../appliance/nbd/protocol.ts';
import type { ListenAddress } from '../../appliance/nbd/server/listen-socket.ts';

/*
 * The bytes of an NBD client, written independently of the server's own codec: a client under the full control of a test,
 * which may be as wrong as the test wants it.
 */

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

export interface Chunk {
  readonly flags: number;
  readonly type: number;
  readonly cookie: bigint;
  readonly data: Buffer;
}

export interface WireRequest {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: number | bigint;
  readonly length?: number | bigint;
  readonly data?: Buffer;
}

export class WireClient {
  #socket: Socket;
  #chunks: Buffer[] = [];
  #receivedBytes = 0;
  #isEnded = false;
  #wake: () => void = () => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#attach(socket);
  }

  static async connect(address: ListenAddress): Promise<WireClient> {
    const socket = address.kind === 'unix' ? connect(address.path) : connect(address.port, address.host);
    const client = new WireClient(socket);
    await once(socket, 'connect');
    return client;
  }

  /** Connects, takes the greeting and sends the client's flags. */
  static async greeted(address: ListenAddress, flags = 3): Promise<WireClient> {
    const client = await WireClient.connect(address);
    await client.read(18);
    client.send(u32(flags));
    return client;
  }

  /** In transmission on an export. */
  static async transmitting(address: ListenAddress, options: GoOptions): Promise<WireClient> {
    const client = await WireClient.greeted(address);
    await client.go(options);
    return client;
  }

  get socket(): Socket {
    return this.#socket;
  }

  send(...parts: readonly Buffer[]): void {
    this.#socket.write(Buffer.concat(parts));
  }

  endInput(): void {
    this.#socket.end();
  }

  close(): void {
    this.#socket.destroy();
  }

  /** Exactly so many bytes; throws when the connection ends before. */
  async read(bytes: number): Promise<Buffer> {
    while (this.#receivedBytes < bytes) {
      if (this.#isEnded) throw new Error(`the server closed after ${this.#receivedBytes} of ${bytes} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const all = this.#takeAll();
    if (all.length > bytes) this.#put(all.subarray(bytes));
    return all.subarray(0, bytes);
  }

  /** Everything up to the end of the connection. */
  async readToEnd(): Promise<Buffer> {
    while (!this.#isEnded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#takeAll();
  }

  async secure(options: ConnectionOptions): Promise<void> {
    this.#socket.removeAllListeners();
    const secured = connectTls({ ...options, socket: this.#socket });
    this.#takeAll();
    this.#socket = secured;
    this.#attach(secured);
    await once(secured, 'secureConnect');
  }

  sendOption(option: number, data: Buffer = Buffer.alloc(0)): void {
    this.send(optionBytes(option, data));
  }

  async readOptionReply(): Promise<OptionReply> {
    const head = await this.read(20);
    if (head.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw new Error('wrong magic of an option reply');
    const data = await this.read(head.readUInt32BE(16));
    return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), data };
  }

  /** Sends an option and reads replies up to the final one. */
  async option(option: number, data?: Buffer): Promise<OptionReply[]> {
    this.sendOption(option, data);
    const replies: OptionReply[] = [];
    for (;;) {
      const reply = await this.readOptionReply();
      replies.push(reply);
      if (reply.type === REP.ACK || reply.type >= 0x80000000) return replies;
    }
  }

  /** The type of the final reply to an option. */
  async optionType(option: number, data?: Buffer): Promise<number> {
    return (await this.option(option, data)).at(-1)?.type ?? 0;
  }

  async go(options: GoOptions): Promise<OptionReply[]> {
    if (options.style === 'structured') await this.option(OPT.STRUCTURED_REPLY);
    if (options.style === 'extended') await this.option(OPT.EXTENDED_HEADERS);
    if (options.contexts !== undefined) {
      await this.option(OPT.SET_META_CONTEXT, metaData(options.name, options.contexts));
    }
    return await this.option(OPT.GO, infoData(options.name, options.infos ?? []));
  }

  request(request: WireRequest): void {
    this.send(requestBytes(request));
  }

  extendedRequest(request: WireRequest): void {
    this.send(extendedRequestBytes(request));
  }

  /** The error of a simple reply; its payload, if any, is left to be read. */
  async readSimple(cookie?: bigint): Promise<number> {
    const head = await this.read(16);
    if (head.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC) throw new Error(`no simple reply: ${head.toString('hex')}`);
    if (cookie !== undefined && head.readBigUInt64BE(8) !== cookie) throw new Error('wrong cookie');
    return head.readUInt32BE(4);
  }

  async readChunk(): Promise<Chunk> {
    const head = await this.read(20);
    if (head.readUInt32BE(0) !== STRUCTURED_REPLY_MAGIC) throw new Error(`no chunk: ${head.toString('hex')}`);
    const data = await this.read(head.readUInt32BE(16));
    return { flags: head.readUInt16BE(4), type: head.readUInt16BE(6), cookie: head.readBigUInt64BE(8), data };
  }

  async readExtendedChunk(): Promise<Chunk & { readonly offset: bigint }> {
    const head = await this.read(32);
    if (head.readUInt32BE(0) !== EXTENDED_REPLY_MAGIC) throw new Error(`no extended chunk: ${head.toString('hex')}`);
    const data = await this.read(Number(head.readBigUInt64BE(24)));
    return {
      flags: head.readUInt16BE(4),
      type: head.readUInt16BE(6),
      cookie: head.readBigUInt64BE(8),
      offset: head.readBigUInt64BE(16),
      data,
    };
  }

  /** The error value of an error chunk. */
  async readChunkError(): Promise<number> {
    const chunk = await this.readChunk();
    if (chunk.type !== 0x8001) throw new Error(`chunk of type ${chunk.type} instead of an error`);
    return chunk.data.readUInt32BE(0);
  }

  #put(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#receivedBytes += chunk.length;
  }

  #takeAll(): Buffer {
    const all = this.#chunks.length === 1 ? (this.#chunks[0] ?? Buffer.alloc(0)) : Buffer.concat(this.#chunks);
    this.#chunks = [];
    this.#receivedBytes = 0;
    return all;
  }

  #attach(socket: Socket): void {
    socket.on('data', (chunk: Buffer) => {
      this.#put(chunk);
      this.#wake();
    });
    const end = (): void => {
      this.#isEnded = true;
      this.#wake();
    };
    socket.on('end', end);
    socket.on('close', end);
    socket.on('error', end);
  }
}

export interface GoOptions {
  readonly name: string;
  readonly style?: 'simple' | 'structured' | 'extended';
  readonly contexts?: readonly string[];
  readonly infos?: readonly number[];
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

export function optionBytes(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u64(IHAVEOPT), u32(option), u32(data.length), data]);
}

export function infoData(name: string | Buffer, infos: readonly number[] = []): Buffer {
  const bytes = Buffer.from(name);
  return Buffer.concat([u32(bytes.length), bytes, u16(infos.length), ...infos.map(u16)]);
}

export function metaData(name: string, queries: readonly string[]): Buffer {
  const text = (each: string): Buffer => Buffer.concat([u32(Buffer.byteLength(each)), Buffer.from(each)]);
  return Buffer.concat([text(name), u32(queries.length), ...queries.map(text)]);
}

export function requestBytes(request: WireRequest): Buffer {
  const { flags = 0, type, cookie = 1n, offset = 0, length = 0, data = Buffer.alloc(0) } = request;
  return Buffer.concat([
    u32(REQUEST_MAGIC),
    u16(flags),
    u16(type),
    u64(cookie),
    u64(offset),
    u32(Number(length)),
    data,
  ]);
}

export function extendedRequestBytes(request: WireRequest): Buffer {
  const { flags = 0, type, cookie = 1n, offset = 0, length = 0, data = Buffer.alloc(0) } = request;
  return Buffer.concat([
    u32(EXTENDED_REQUEST_MAGIC),
    u16(flags),
    u16(type),
    u64(cookie),
    u64(offset),
    u64(length),
    data,
  ]);
}
