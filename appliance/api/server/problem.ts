// SPDX-License-Identifier: Apache-2.0
import type { ErrorCode } from '../../core/error-codes.ts';
import { encodeError, type WireError } from '../wire-error.ts';

/** How errors are sent: RFC 9457. */
export const PROBLEM_TYPE = 'application/problem+json';

export interface Problem extends Omit<WireError, 'exitCode'> {
  /** A URI that names the code. */
  readonly type: string;
  /** The code in words. */
  readonly title: string;
  readonly status: number;
  readonly requestId: string;
}

/**
 * The HTTP status of each code: 4xx for what the one who asks can change, 409 for what is in the way, 502 and 504 for other systems,
 * 503 for what passes, 507 for space. 500 is for defects and damage only.
 */
export const ERROR_STATUS: Readonly<Record<ErrorCode, number>> = {
  ABORTED: 409,
  BAD_ARGUMENT: 400,
  IO_FAILED: 500,
  NO_SPACE: 507,
  LOCKED: 409,
  TIMED_OUT: 504,
  INTERNAL: 500,
  AUDIT_DAMAGED: 500,
  OUT_OF_RANGE: 400,
  READ_ONLY: 409,
  NOT_SUPPORTED: 422,
  CLOSED: 503,
  NBD_BAD_URI: 400,
  NBD_CONNECT_FAILED: 502,
  NBD_PROTOCOL: 502,
  NBD_REFUSED: 502,
  NBD_EXPORT_UNKNOWN: 404,
  NBD_TLS_REQUIRED: 502,
  NBD_TLS_FAILED: 502,
  NBD_CONNECTION_LOST: 502,
  NBD_SERVER_ERROR: 502,
  NBD_EXPORT_CHANGED: 502,
  NBD_META_CONTEXT_MISSING: 502,
  NBD_LISTEN_FAILED: 409,
  NBD_EXPORT_EXISTS: 409,
  REPOSITORY_NOT_FOUND: 404,
  REPOSITORY_EXISTS: 409,
  REPOSITORY_FORMAT: 500,
  REPOSITORY_KEY: 422,
  REPOSITORY_CORRUPT: 500,
  OBJECT_EXISTS: 409,
  OBJECT_NOT_FOUND: 500,
  CHUNK_MISSING: 500,
  CATALOG_DAMAGED: 500,
  POINT_NOT_FOUND: 404,
  POINT_AMBIGUOUS: 400,
  POINT_IN_USE: 409,
  POINT_HELD: 409,
  POINT_LOCKED: 409,
  MACHINE_NOT_FOUND: 404,
  DISK_NOT_FOUND: 404,
  WRITE_LOG_CORRUPT: 500,
  MOMENT_IN_GAP: 404,
  MOMENT_NOT_FOUND: 404,
  LIBVIRT_UNAVAILABLE: 502,
  LIBVIRT_CONNECT_FAILED: 502,
  LIBVIRT_FAILED: 502,
  DOMAIN_NOT_FOUND: 404,
  DOMAIN_BUSY: 409,
  DOMAIN_EXISTS: 409,
  DOMAIN_GONE: 409,
  NO_PROTECTABLE_DISK: 422,
  TOOL_MISSING: 502,
  TOOL_FAILED: 502,
  LIBVIRT_CONNECTION_LOST: 502,
  SSH_FAILED: 502,
  QEMU_ACCESS: 502,
  LIBVIRT_DENIED: 502,
  DOMAIN_WRONG_STATE: 409,
  NO_BLOCK_JOB: 404,
  NO_BACKUP_JOB: 404,
  CHECKPOINT_NOT_FOUND: 404,
  CHECKPOINT_INCONSISTENT: 409,
  VOLUME_NOT_FOUND: 404,
  AGENT_UNAVAILABLE: 502,
  AGENT_TIMED_OUT: 504,
  AGENT_FAILED: 502,
  DOMAIN_XML_INVALID: 502,
  TRACKER_FAILED: 502,
  BACKUP_UNREACHABLE: 502,
  SOURCE_CHANGED: 409,
  INCOMPLETE_BACKUP: 502,
  TARGET_EXISTS: 409,
  TARGET_TOO_SMALL: 422,
  TARGET_CHANGED: 409,
  CONFIRMATION_NEEDED: 409,
  BOOT_FAILED: 502,
  MIGRATION_FAILED: 502,
  MIGRATION_UNFINISHED: 409,
  STANDBY_NOT_FOUND: 404,
  STANDBY_BUSY: 409,
  NOT_FENCED: 409,
  VERIFY_FAILED: 502,
  RUN_NOT_FOUND: 404,
  INTERRUPTED: 503,
  TOO_BUSY: 503,
  PATH_UNKNOWN: 404,
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  LOGIN_FAILED: 401,
  SECOND_FACTOR_NEEDED: 401,
  LOGIN_LIMITED: 429,
  APPROVAL_NEEDED: 409,
  LAST_ADMIN: 409,
  SIGN_ON_FAILED: 502,
  NOT_FOUND: 404,
  CONFLICT: 409,
  LIMIT_REACHED: 409,
  CONFIG_DAMAGED: 500,
  CONFIG_FORMAT: 422,
  SECRET_UNREADABLE: 500,
  IDEMPOTENCY_CONFLICT: 422,
  SERVICE_UNREACHABLE: 503,
};

/** What is thrown, for the wire. Of a defect only that there was one: its message may tell what nobody outside should know. */
export function problemOf(
  thrown: unknown,
  options: { readonly requestId: string; readonly isLocal: boolean },
): Problem {
  const { exitCode: _, ...error } = encodeError(thrown);
  const isHidden = error.code === 'INTERNAL' && !options.isLocal;
  return {
    type: `urn:understudy:error:${error.code}`,
    title: capitalized(error.code.toLowerCase().replaceAll('_', ' ')),
    status: ERROR_STATUS[error.code],
    ...error,
    ...(isHidden ? { message: 'an internal error; the log of the service has it', details: {} } : {}),
    requestId: options.requestId,
  };
}

function capitalized(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`;
}
