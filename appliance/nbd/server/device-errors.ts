// SPDX-License-Identifier: Apache-2.0
import type { ErrorCode } from '../../core/error-codes.ts';
import { ApplianceError, systemErrorCode } from '../../core/errors.ts';
import { CMD, CMD_FLAG, NBD_ERRNO } from '../protocol.ts';
import type { Request } from './request.ts';

/** A failed request as the wire tells it. */
export interface Failure {
  readonly errno: number;
  readonly message: string;
}

const ERRNO_OF_CODE: Readonly<Partial<Record<ErrorCode, number>>> = {
  READ_ONLY: NBD_ERRNO.EPERM,
  NO_SPACE: NBD_ERRNO.ENOSPC,
  CLOSED: NBD_ERRNO.ESHUTDOWN,
};

/** The error value of the wire for whatever a device threw. (proto.md, "Error values") */
export function failureOf(error: unknown, request: Request): Failure {
  const message = error instanceof Error ? error.message : String(error);
  return { errno: errnoOf(error, request), message };
}

function errnoOf(error: unknown, request: Request): number {
  if (!(error instanceof ApplianceError)) return isFullDisk(error) ? NBD_ERRNO.ENOSPC : NBD_ERRNO.EIO;
  if (error.code === 'OUT_OF_RANGE') return outOfRangeErrno(request.type);
  if (error.code === 'NOT_SUPPORTED') return isFastZero(request) ? NBD_ERRNO.ENOTSUP : NBD_ERRNO.EINVAL;
  return ERRNO_OF_CODE[error.code] ?? NBD_ERRNO.EIO;
}

/** What a request beyond the end of the export is answered with. */
export function outOfRangeErrno(type: number): number {
  return type === CMD.WRITE || type === CMD.WRITE_ZEROES ? NBD_ERRNO.ENOSPC : NBD_ERRNO.EINVAL;
}

function isFastZero(request: Request): boolean {
  return request.type === CMD.WRITE_ZEROES && (request.flags & CMD_FLAG.FAST_ZERO) !== 0;
}

function isFullDisk(error: unknown): boolean {
  const code = systemErrorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG';
}
