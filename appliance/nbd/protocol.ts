// SPDX-License-Identifier: Apache-2.0

/**
 * The numbers of the NBD protocol, with the names of its specification (NetworkBlockDevice/nbd, doc/proto.md, and its
 * branch extension-ext-header). All integers on the wire are big-endian.
 */

/** "NBDMAGIC", "IHAVEOPT": both halves of each 64-bit magic, since 64-bit numbers do not fit a JavaScript number. */
export const NBDMAGIC: bigint = 0x4e42444d41474943n;
export const IHAVEOPT: bigint = 0x49484156454f5054n;
export const CLISERV_MAGIC: bigint = 0x0000420281861253n;
export const OPTION_REPLY_MAGIC: bigint = 0x0003e889045565a9n;

export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

export const HANDSHAKE_FLAG = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const;

export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const FLAG = {
  HAS_FLAGS: 0x1,
  READ_ONLY: 0x2,
  SEND_FLUSH: 0x4,
  SEND_FUA: 0x8,
  ROTATIONAL: 0x10,
  SEND_TRIM: 0x20,
  SEND_WRITE_ZEROES: 0x40,
  SEND_DF: 0x80,
  CAN_MULTI_CONN: 0x100,
  SEND_RESIZE: 0x200,
  SEND_CACHE: 0x400,
  SEND_FAST_ZERO: 0x800,
  BLOCK_STATUS_PAYLOAD: 0x1000,
} as const;

export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

export const CMD_FLAG = {
  FUA: 0x1,
  NO_HOLE: 0x2,
  DF: 0x4,
  REQ_ONE: 0x8,
  FAST_ZERO: 0x10,
  PAYLOAD_LEN: 0x20,
} as const;

export const CHUNK = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  BLOCK_STATUS_EXT: 6,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

export const CHUNK_FLAG_DONE = 1;

/** Error values of the wire; a closed set. */
export const NBD_ERRNO = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** Bits of `base:allocation`; others are ignored. */
export const ALLOCATION_STATE = { HOLE: 1, ZERO: 2 } as const;

export const BASE_ALLOCATION = 'base:allocation';
export const DEFAULT_PORT = 10809;

/** Longest string (name, description, query, error message) in bytes, by the specification. */
export const MAX_STRING_BYTES = 4096;
/** Payload that every implementation takes when no block size was negotiated. */
export const MAX_PAYLOAD_BYTES: number = 32 * 1024 * 1024;

export const REQUEST_BYTES = 28;
export const EXTENDED_REQUEST_BYTES = 32;
export const SIMPLE_REPLY_BYTES = 16;
export const STRUCTURED_REPLY_BYTES = 20;
export const EXTENDED_REPLY_BYTES = 32;
