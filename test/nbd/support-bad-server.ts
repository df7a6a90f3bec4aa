// SPDX-License-Identifier: Apache-2.0
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import {
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_BYTES,
  FLAG,
  IHAVEOPT,
  INFO,
  NBDMAGIC,
  OPT,
  OPTION_REPLY_MAGIC,
  REP,
  REQUEST_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../../appliance/nbd/protocol.ts';
import type { TestContext } from '../support/test-scope.ts';

/** One request as the scripted server sees it. */
export interface SeenRequest {
  readonly command: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer;
}

/** What a script does with a connection. */
export interface BadConnection {
  readonly socket: Socket;
  /** Counts from 1 over the life of the server. */
  readonly number: number;
  raw(bytes: Buffer): void;
  option(option: number, type: number, data?: Buffer): void;
  simple(request: SeenRequest, errno: number, data?: Buffer): void;
  /** A structured or extended chunk, as negotiated. */
  chunk(request: SeenRequest, isDone: boolean, type: number, payload?: Buffer): void;
}

/** A server that is right unless its script says otherwise. */
export interface BadServerScript {
  readonly handshakeFlags?: number;
  readonly sizeBytes?: number | bigint;
  readonly transmissionFlags?: number;
  readonly blockSize?: readonly [number, number, number];
  /** Options that it answers with ERR_UNSUP. */
  readonly unsupported?: readonly number[];
  /** Contexts that SET_META_CONTEXT selects, whatever was asked. */
  readonly contexts?: readonly (readonly [number, string])[];
  /** Bytes instead of the greeting. */
  readonly greeting?: Buffer;
  /** True when the script answered the option itself. */
  readonly onOption?: (connection: BadConnection, option: number, data: Buffer) => boolean;
  readonly onRequest?: (connection: BadConnection, request: SeenRequest) => void;
  /** What leaves instead of these bytes, which start at `position` of the connection's stream; `end` hangs up. */
  readonly transform?: (bytes: Buffer, position: number) => readonly (Buffer | 'end')[];
}

export interface BadServer {
  readonly socket: string;
  readonly uri: string;
  /** Connections that were accepted so far. */
  readonly accepted: number;
  readonly options: readonly number[];
  readonly requests: readonly SeenRequest[];
  /** Everything that was sent on the first connection. */
  readonly sent: readonly Buffer[];
  stop(): Promise<void>;
}

export const MIB: number = 1024 * 1024;
export const USUAL_FLAGS: number =
  FLAG.HAS_FLAGS + FLAG.SEND_FLUSH + FLAG.SEND_FUA + FLAG.SEND_WRITE_ZEROES + FLAG.SEND_TRIM + FLAG.SEND_CACHE;

/** Byte at an offset of the scripted export. */
export function byteAt(offset: number): number {
  return (offset * 31 + Math.floor(offset / 251)) % 256;
}

export function bytesAt(offset: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let index = 0; index < length; index++) bytes[index] = byteAt(offset + index);
  return bytes;
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

/** Serves the script at a fresh socket until the test ends. */
export async function startBadServer(t: TestContext, script: BadServerScript, path?: string): Promise<BadServer> {
  const socket = path ?? join(await t.tempDir(), 's');
  const record = { accepted: 0, options: [] as number[], requests: [] as SeenRequest[], sent: [] as Buffer[] };
  const sockets = new Set<Socket>();
  const server: Server = createServer((connection) => {
    sockets.add(connection);
    record.accepted += 1;
    connection.on('error', () => connection.destroy());
    connection.on('close', () => sockets.delete(connection));
    new ScriptedConnection(connection, script, record).start();
  });
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  const stop = async (): Promise<void> => {
    for (const connection of sockets) connection.destroy();
    if (server.listening) await new Promise((resolve) => server.close(resolve));
  };
  t.use({ close: stop });
  return {
    socket,
    uri: `nbd+unix:///?socket=${socket}`,
    get accepted() {
      return record.accepted;
    },
    options: record.options,
    requests: record.requests,
    sent: record.sent,
    stop,
  };
}

interface Record {
  readonly accepted: number;
  readonly options: number[];
  readonly requests: SeenRequest[];
  readonly sent: Buffer[];
}

class ScriptedConnection implements BadConnection {
  readonly socket: Socket;
  readonly number: number;
  readonly #script: BadServerScript;
  readonly #record: Record;
  #received: Buffer = Buffer.alloc(0);
  #position = 0;
  #phase: 'flags' | 'options' | 'transmission' = 'flags';
  #replies: 'simple' | 'structured' | 'extended' = 'simple';

  constructor(socket: Socket, script: BadServerScript, record: Record) {
    this.socket = socket;
    this.number = record.accepted;
    this.#script = script;
    this.#record = record;
  }

  start(): void {
    this.socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      while (this.#step()) continue;
    });
    const flags = u16(this.#script.handshakeFlags ?? 3);
    this.raw(this.#script.greeting ?? Buffer.concat([u64(NBDMAGIC), u64(IHAVEOPT), flags]));
  }

  raw(bytes: Buffer): void {
    if (this.number === 1) this.#record.sent.push(bytes);
    const pieces = this.#script.transform === undefined ? [bytes] : this.#script.transform(bytes, this.#position);
    this.#position += bytes.length;
    for (const piece of pieces) {
      if (!this.socket.writable) return;
      if (piece === 'end') this.socket.end();
      else this.socket.write(piece);
    }
  }

  option(option: number, type: number, data: Buffer = Buffer.alloc(0)): void {
    this.raw(Buffer.concat([u64(OPTION_REPLY_MAGIC), u32(option), u32(type), u32(data.length), data]));
  }

  simple(request: SeenRequest, errno: number, data: Buffer = Buffer.alloc(0)): void {
    this.raw(Buffer.concat([u32(SIMPLE_REPLY_MAGIC), u32(errno), u64(request.cookie), data]));
  }

  chunk(request: SeenRequest, isDone: boolean, type: number, payload: Buffer = Buffer.alloc(0)): void {
    const start = [u16(isDone ? 1 : 0), u16(type), u64(request.cookie)];
    if (this.#replies === 'extended') {
      this.raw(Buffer.concat([u32(EXTENDED_REPLY_MAGIC), ...start, u64(request.offset), u64(payload.length), payload]));
    } else this.raw(Buffer.concat([u32(STRUCTURED_REPLY_MAGIC), ...start, u32(payload.length), payload]));
  }

  #step(): boolean {
    if (this.#phase === 'flags') return this.#take(4, () => this.#enter('options'));
    if (this.#phase === 'options') {
      if (this.#received.length < 16) return false;
      const length = this.#received.readUInt32BE(12);
      return this.#take(16 + length, (bytes) => this.#onOption(bytes.readUInt32BE(8), bytes.subarray(16)));
    }
    const headerBytes = this.#replies === 'extended' ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
    if (this.#received.length < headerBytes) return false;
    const command = this.#received.readUInt16BE(6);
    const length =
      this.#replies === 'extended' ? Number(this.#received.readBigUInt64BE(24)) : this.#received.readUInt32BE(24);
    return this.#take(headerBytes + (command === 1 ? length : 0), (bytes) => {
      const request = {
        command,
        flags: bytes.readUInt16BE(4),
        cookie: bytes.readBigUInt64BE(8),
        offset: Number(bytes.readBigUInt64BE(16)),
        length,
        payload: bytes.subarray(headerBytes),
      };
      this.#record.requests.push(request);
      this.#onRequest(request);
    });
  }

  #take(length: number, use: (bytes: Buffer) => void): boolean {
    if (this.#received.length < length) return false;
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    use(bytes);
    return true;
  }

  #enter(phase: 'options' | 'transmission'): void {
    this.#phase = phase;
  }

  #onOption(option: number, data: Buffer): void {
    this.#record.options.push(option);
    if (this.#script.onOption?.(this, option, data) === true) return;
    if (this.#script.unsupported?.includes(option) === true) return this.option(option, REP.ERR_UNSUP);
    const { sizeBytes = MIB, transmissionFlags = USUAL_FLAGS } = this.#script;
    switch (option) {
      case OPT.STRUCTURED_REPLY:
        this.#replies = 'structured';
        return this.option(option, REP.ACK);
      case OPT.EXTENDED_HEADERS:
        this.#replies = 'extended';
        return this.option(option, REP.ACK);
      case OPT.SET_META_CONTEXT:
      case OPT.LIST_META_CONTEXT:
        for (const [id, name] of this.#script.contexts ?? []) {
          this.option(option, REP.META_CONTEXT, Buffer.concat([u32(id), Buffer.from(name)]));
        }
        return this.option(option, REP.ACK);
      case OPT.GO:
      case OPT.INFO:
        if (this.#script.blockSize !== undefined) {
          const sizes = this.#script.blockSize.map((size) => u32(size));
          this.option(option, REP.INFO, Buffer.concat([u16(INFO.BLOCK_SIZE), ...sizes]));
        }
        this.option(option, REP.INFO, Buffer.concat([u16(INFO.EXPORT), u64(sizeBytes), u16(transmissionFlags)]));
        this.option(option, REP.ACK);
        return option === OPT.GO ? this.#enter('transmission') : undefined;
      case OPT.EXPORT_NAME:
        this.#enter('transmission');
        this.raw(Buffer.concat([u64(sizeBytes), u16(transmissionFlags)]));
        if ((this.#script.handshakeFlags ?? 3) < 2) this.raw(Buffer.alloc(124));
        return;
      case OPT.LIST:
        this.option(option, REP.SERVER, Buffer.concat([u32(1), Buffer.from('ax')]));
        return this.option(option, REP.ACK);
      case OPT.ABORT:
        this.option(option, REP.ACK);
        this.socket.end();
        return;
      default:
        this.option(option, REP.ERR_UNSUP);
    }
  }

  #onRequest(request: SeenRequest): void {
    if (request.command === 2) return void this.socket.end();
    if (this.#script.onRequest !== undefined) return this.#script.onRequest(this, request);
    answerWell(this, request, this.#replies);
  }
}

/** The right answer, with the content of `byteAt`; block status is one allocated extent per context. */
export function answerWell(
  connection: BadConnection,
  request: SeenRequest,
  replies: 'simple' | 'structured' | 'extended' = 'structured',
): void {
  const isRead = request.command === 0;
  const data = isRead ? bytesAt(request.offset, request.length) : Buffer.alloc(0);
  if (replies === 'simple') connection.simple(request, 0, data);
  else if (isRead) connection.chunk(request, true, 1, Buffer.concat([u64(request.offset), data]));
  else connection.chunk(request, true, 0);
}
