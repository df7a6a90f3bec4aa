// SPDX-License-Identifier: Apache-2.0
import { CMD, CMD_FLAG, FLAG, NBD_ERRNO } from '../protocol.ts';
import { type Failure, outOfRangeErrno } from './device-errors.ts';
import type { Session } from './haggling.ts';
import { commandName, type Request } from './request.ts';

/**
 * Decides whether requests of one session may run, before anything is allocated or executed for them. (proto.md,
 * "Transmission phase", "Request types", "Error values")
 */
export class RequestCheck {
  readonly #session: Session;
  readonly #sizeBytes: number;
  readonly #maxPayloadBytes: number;
  readonly #allowedFlags: ReadonlyMap<number, number>;
  readonly #isReadOnly: boolean;
  readonly #blockBytes: number;

  constructor(session: Session, maxPayloadBytes: number) {
    this.#session = session;
    this.#sizeBytes = session.export.sizeBytes;
    this.#maxPayloadBytes = session.knowsBlockSize ? session.export.limits.maximumBytes : maxPayloadBytes;
    this.#allowedFlags = allowedFlags(session);
    this.#isReadOnly = session.export.isReadOnly;
    this.#blockBytes = session.knowsBlockSize ? session.export.limits.minimumBytes : 1;
  }

  /** The reason to refuse the request, or undefined. */
  refusal(request: Request): Failure | undefined {
    const { type, flags, offset, length } = request;
    const allowed = this.#allowedFlags.get(type);
    if (allowed === undefined) return this.#unsupported(request);
    if (this.#isReadOnly && isChange(type)) return { errno: NBD_ERRNO.EPERM, message: 'the export is read-only' };
    if ((flags & ~allowed) !== 0) return invalid(`flags 0x${flags.toString(16)} on ${commandName(type)}`);
    if (type === CMD.FLUSH) return undefined;
    // After extended headers a write MUST carry PAYLOAD_LEN, and QEMU (8.2 to 10.0 at least) does not. Its length is that of its
    // payload either way, so it is taken, as QEMU's own server does: refused, a guest of such a QEMU could not write at all.
    //
    // Here the length is that of the payload; the range is checked when it was read.
    if (type === CMD.BLOCK_STATUS && (flags & CMD_FLAG.PAYLOAD_LEN) !== 0) return undefined;
    return this.#rangeRefusal(type, offset, length);
  }

  /** The part of the check that depends on the range only. */
  #rangeRefusal(type: number, offset: number, length: number): Failure | undefined {
    if (offset + length > this.#sizeBytes) {
      return { errno: outOfRangeErrno(type), message: `${commandName(type)} beyond the end of the export` };
    }
    if (this.#blockBytes > 1 && (offset % this.#blockBytes !== 0 || length % this.#blockBytes !== 0)) {
      return invalid(`${commandName(type)} is not aligned to ${this.#blockBytes} bytes`);
    }
    if ((type === CMD.READ || type === CMD.WRITE) && length > this.#maxPayloadBytes) return this.#tooLong(type);
    if (type === CMD.BLOCK_STATUS) return this.blockStatusRefusal(offset, length);
    return undefined;
  }

  #tooLong(type: number): Failure {
    const isSplittable = type === CMD.READ && this.#session.style !== 'simple';
    const errno = isSplittable ? NBD_ERRNO.EOVERFLOW : NBD_ERRNO.EINVAL;
    return { errno, message: `the payload of ${commandName(type)} is at most ${this.#maxPayloadBytes} bytes long` };
  }

  /** For block status, whose range may stand in its payload. */
  blockStatusRefusal(offset: number, length: number): Failure | undefined {
    if (this.#session.contexts.length === 0) return invalid('block status without a selected meta context');
    if (offset + length > this.#sizeBytes) return invalid('block status beyond the end of the export');
    return length === 0 ? invalid('block status of nothing') : undefined;
  }

  #unsupported(request: Request): Failure {
    const { type } = request;
    if (this.#isReadOnly && isChange(type)) return { errno: NBD_ERRNO.EPERM, message: 'the export is read-only' };
    return invalid(`${commandName(type)} is not supported by this export`);
  }
}

function isChange(type: number): boolean {
  return type === CMD.WRITE || type === CMD.TRIM || type === CMD.WRITE_ZEROES;
}

function invalid(message: string): Failure {
  return { errno: NBD_ERRNO.EINVAL, message };
}

/** Commands that the session may use, each with the flags that it may carry. */
function allowedFlags(session: Session): ReadonlyMap<number, number> {
  const has = (flag: number): boolean => (session.flags & flag) !== 0;
  const fua = has(FLAG.SEND_FUA) ? CMD_FLAG.FUA : 0;
  const payload = session.style === 'extended' ? CMD_FLAG.PAYLOAD_LEN : 0;
  const allowed = new Map<number, number>([
    [CMD.READ, fua | (has(FLAG.SEND_DF) ? CMD_FLAG.DF : 0)],
    [CMD.WRITE, fua | payload],
  ]);
  if (has(FLAG.SEND_FLUSH)) allowed.set(CMD.FLUSH, fua);
  if (has(FLAG.SEND_TRIM)) allowed.set(CMD.TRIM, fua);
  if (has(FLAG.SEND_CACHE)) allowed.set(CMD.CACHE, fua);
  if (has(FLAG.SEND_WRITE_ZEROES)) {
    const fast = has(FLAG.SEND_FAST_ZERO) ? CMD_FLAG.FAST_ZERO : 0;
    allowed.set(CMD.WRITE_ZEROES, fua | CMD_FLAG.NO_HOLE | fast);
  }
  const narrowing = has(FLAG.BLOCK_STATUS_PAYLOAD) ? CMD_FLAG.PAYLOAD_LEN : 0;
  if (session.style !== 'simple') allowed.set(CMD.BLOCK_STATUS, fua | CMD_FLAG.REQ_ONE | narrowing);
  return allowed;
}
