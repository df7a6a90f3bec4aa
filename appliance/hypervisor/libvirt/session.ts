// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import type { LibvirtFailure } from './errors.ts';
import { bindLibvirt, bytesAt, type Handle, type LibvirtApi, readPointer, silentHandler, stringAt } from './library.ts';
import type { DomainIdentity, OperationArgs, OperationName, OperationResult } from './protocol.ts';

/** A libvirt call failed; the error was fetched in the thread that made the call, right after it. */
export class LibvirtCallError extends Error {
  override readonly name = 'LibvirtCallError';
  readonly failure: LibvirtFailure;

  constructor(failure: LibvirtFailure) {
    super(failure.message);
    this.failure = failure;
  }
}

/** `struct _virError` up to `level`: two ints, a pointer, an int. */
const ERROR_LENGTH = 24;
const UUID_STRING_LENGTH = 37;

/**
 * libvirt as one thread sees it: the bound functions, the connection, and the thread-local error. Lives in a call worker;
 * every method blocks. Objects of libvirt are looked up for each call and released at its end, so nothing is held between
 * calls but the connection.
 */
export class Session {
  readonly api: LibvirtApi;
  connection: Handle = 0;

  constructor() {
    this.api = bindLibvirt();
    this.api.virSetErrorFunc(0, silentHandler());
  }

  /** The count or flag that `value` is, or throws for -1. */
  expectCount(value: number): number {
    if (value < 0) throw this.lastError();
    return value;
  }

  expectHandle(value: Handle): Handle {
    if (value === 0) throw this.lastError();
    return value;
  }

  expectString(value: string | null): string {
    if (value === null) throw this.lastError();
    return value;
  }

  /** Looks the domain up by UUID for the time of `use`. */
  withDomain<T>(uuid: string, use: (domain: Handle) => T): T {
    const domain = this.expectHandle(this.api.virDomainLookupByUUIDString(this.connection, uuid));
    try {
      return use(domain);
    } finally {
      this.api.virDomainFree(domain);
    }
  }

  /** Reads who `domain` is and releases it. */
  takeIdentity(domain: Handle): DomainIdentity {
    try {
      return identityOf(this.api, this.expectHandle(domain));
    } finally {
      if (domain !== 0) this.api.virDomainFree(domain);
    }
  }

  /** Reads the handles of a `virXListAllY` result and frees the array, not the handles. */
  takeHandles(list: Buffer, count: number): Handle[] {
    const array = readPointer(list);
    if (array === 0) return [];
    const bytes = bytesAt(array, count * 8);
    this.api.free(array);
    return Array.from({ length: count }, (_, index) => readPointer(bytes, index * 8));
  }

  /** This thread's last libvirt error, to be thrown. */
  lastError(): LibvirtCallError {
    const error = this.api.virGetLastError();
    if (error === 0) return new LibvirtCallError({ code: 0, domain: 0, level: 2, message: 'libvirt gave no reason' });
    const bytes = bytesAt(error, ERROR_LENGTH);
    return new LibvirtCallError({
      code: bytes.readInt32LE(0),
      domain: bytes.readInt32LE(4),
      message: stringAt(readPointer(bytes, 8)) ?? 'unknown error',
      level: bytes.readInt32LE(16),
    });
  }
}

/** Name and UUID, from the object's own memory: no call to the daemon. */
export function identityOf(api: LibvirtApi, domain: Handle): DomainIdentity {
  const text = Buffer.alloc(UUID_STRING_LENGTH);
  if (api.virDomainGetUUIDString(domain, text) < 0) throw new ApplianceError('INTERNAL', 'a domain without a UUID');
  return { uuid: text.toString('latin1', 0, UUID_STRING_LENGTH - 1), name: api.virDomainGetName(domain) ?? '' };
}

/** A table of operations, or a part of it. */
export type Handlers<K extends OperationName = OperationName> = {
  readonly [Name in K]: (session: Session, args: OperationArgs<Name>) => OperationResult<Name>;
};
