// SPDX-License-Identifier: Apache-2.0
import koffi from 'koffi';
import { ApplianceError } from '../../core/errors.ts';

/** The address of a libvirt object (`virConnectPtr`, `virDomainPtr`, …), or 0. User-space addresses fit a number. */
export type Handle = number;

/**
 * The C functions in use, as JavaScript sees them. Handles and raw pointers are numbers, so that they can be handed from
 * one worker thread to another; a `Buffer` is an out-parameter or a fixed-size structure; a returned string was copied
 * and its C memory released (`str!` below).
 */
export interface LibvirtApi {
  virSetErrorFunc(userData: Handle, handler: bigint): void;
  virGetLastError(): Handle;
  virResetLastError(): void;
  virEventRegisterDefaultImpl(): number;
  virEventRunDefaultImpl(): number;
  virEventAddTimeout(milliseconds: number, callback: bigint, opaque: Handle, free: Handle): number;
  virGetVersion(libraryVersion: Buffer, type: string | null, typeVersion: Buffer | null): number;

  virConnectOpen(uri: string): Handle;
  virConnectClose(connection: Handle): number;
  virConnectIsAlive(connection: Handle): number;
  virConnectSetKeepAlive(connection: Handle, intervalSeconds: number, count: number): number;
  virConnectRegisterCloseCallback(connection: Handle, callback: bigint, opaque: Handle, free: Handle): number;
  virConnectUnregisterCloseCallback(connection: Handle, callback: bigint): number;
  virConnectDomainEventRegisterAny(c: Handle, d: Handle, id: number, cb: bigint, opaque: Handle, free: Handle): number;
  virConnectDomainEventDeregisterAny(connection: Handle, callbackId: number): number;
  virConnectGetVersion(connection: Handle, version: Buffer): number;
  virConnectGetLibVersion(connection: Handle, version: Buffer): number;
  virConnectGetType(connection: Handle): string | null;
  virConnectGetHostname(connection: Handle): string | null;
  virConnectGetURI(connection: Handle): string | null;
  virConnectGetCapabilities(connection: Handle): string | null;
  virConnectListAllDomains(connection: Handle, domains: Buffer, flags: number): number;

  virDomainLookupByUUIDString(connection: Handle, uuid: string): Handle;
  virDomainLookupByName(connection: Handle, name: string): Handle;
  virDomainFree(domain: Handle): number;
  virDomainGetName(domain: Handle): string | null;
  virDomainGetUUIDString(domain: Handle, text: Buffer): number;
  virDomainIsPersistent(domain: Handle): number;
  virDomainIsActive(domain: Handle): number;
  virDomainSetAutostart(domain: Handle, isOn: number): number;
  virDomainGetAutostart(domain: Handle, isOn: Buffer): number;
  virDomainSetMetadata(d: Handle, type: number, xml: string | null, key: string | null, uri: string, f: number): number;
  virDomainRename(domain: Handle, name: string, flags: number): number;
  virDomainGetXMLDesc(domain: Handle, flags: number): string | null;
  virDomainGetState(domain: Handle, state: Buffer, reason: Buffer, flags: number): number;
  virDomainDefineXMLFlags(connection: Handle, xml: string, flags: number): Handle;
  virDomainUndefineFlags(domain: Handle, flags: number): number;
  virDomainCreateXML(connection: Handle, xml: string, flags: number): Handle;
  virDomainCreateWithFlags(domain: Handle, flags: number): number;
  virDomainDestroyFlags(domain: Handle, flags: number): number;
  virDomainShutdownFlags(domain: Handle, flags: number): number;
  virDomainSuspend(domain: Handle): number;
  virDomainResume(domain: Handle): number;
  virDomainAttachDeviceFlags(domain: Handle, xml: string, flags: number): number;
  virDomainUpdateDeviceFlags(domain: Handle, xml: string, flags: number): number;
  virDomainDetachDeviceFlags(domain: Handle, xml: string, flags: number): number;
  virDomainGetBlockInfo(domain: Handle, disk: string, info: Buffer, flags: number): number;
  virDomainBlockResize(domain: Handle, disk: string, sizeBytes: number, flags: number): number;
  virDomainGetBlockJobInfo(domain: Handle, disk: string, info: Buffer, flags: number): number;
  virDomainBlockCopy(d: Handle, disk: string, xml: string, params: Buffer | null, count: number, flags: number): number;
  virDomainBlockJobAbort(domain: Handle, disk: string, flags: number): number;
  virDomainBackupBegin(domain: Handle, backupXml: string, checkpointXml: string | null, flags: number): number;
  virDomainBackupGetXMLDesc(domain: Handle, flags: number): string | null;
  virDomainGetJobInfo(domain: Handle, info: Buffer): number;
  virDomainGetJobStats(domain: Handle, type: Buffer, params: Buffer, count: Buffer, flags: number): number;
  virDomainAbortJob(domain: Handle): number;
  virTypedParamsFree(params: Handle, count: number): void;

  virDomainListAllCheckpoints(domain: Handle, checkpoints: Buffer, flags: number): number;
  virDomainCheckpointLookupByName(domain: Handle, name: string, flags: number): Handle;
  virDomainCheckpointGetName(checkpoint: Handle): string | null;
  virDomainCheckpointGetParent(checkpoint: Handle, flags: number): Handle;
  virDomainCheckpointGetXMLDesc(checkpoint: Handle, flags: number): string | null;
  virDomainCheckpointCreateXML(domain: Handle, xml: string, flags: number): Handle;
  virDomainCheckpointDelete(checkpoint: Handle, flags: number): number;
  virDomainCheckpointFree(checkpoint: Handle): number;

  virDomainAgentSetResponseTimeout(domain: Handle, seconds: number, flags: number): number;
  virDomainFSFreeze(domain: Handle, mountpoints: Handle, count: number, flags: number): number;
  virDomainFSThaw(domain: Handle, mountpoints: Handle, count: number, flags: number): number;
  virDomainQemuAgentCommand(domain: Handle, command: string, timeoutSeconds: number, flags: number): string | null;
  virDomainQemuMonitorCommand(domain: Handle, command: string, result: Buffer, flags: number): number;

  virConnectListAllNetworks(connection: Handle, networks: Buffer, flags: number): number;
  virNetworkGetName(network: Handle): string | null;
  virNetworkFree(network: Handle): number;

  virStoragePoolLookupByName(connection: Handle, name: string): Handle;
  virStoragePoolFree(pool: Handle): number;
  virStoragePoolRefresh(pool: Handle, flags: number): number;
  virStoragePoolGetInfo(pool: Handle, info: Buffer): number;
  virStoragePoolGetXMLDesc(pool: Handle, flags: number): string | null;
  virStorageVolCreateXML(pool: Handle, xml: string, flags: number): Handle;
  virStorageVolDelete(volume: Handle, flags: number): number;
  virStorageVolLookupByName(pool: Handle, name: string): Handle;
  virStorageVolGetXMLDesc(volume: Handle, flags: number): string | null;
  virStorageVolGetPath(volume: Handle): string | null;
  virStorageVolFree(volume: Handle): number;

  virStreamNew(connection: Handle, flags: number): Handle;
  virStreamRecv(stream: Handle, data: Buffer, size: number): number;
  virStreamFinish(stream: Handle): number;
  virStreamAbort(stream: Handle): number;
  virStreamFree(stream: Handle): number;
  virDomainScreenshot(domain: Handle, stream: Handle, screen: number, flags: number): string | null;

  free(memory: Handle): void;
}

const LIBRARY_NAMES = { libvirt: 'libvirt.so.0', qemu: 'libvirt-qemu.so.0', libc: 'libc.so.6' } as const;
type LibraryName = keyof typeof LIBRARY_NAMES;

/** `p` is a pointer or handle as a number, `s` a constant string or null, `b` a buffer; the others are C types. */
const SIGNATURES: Readonly<Record<keyof LibvirtApi, string>> = {
  virSetErrorFunc: 'void(p,f)',
  virGetLastError: 'p()',
  virResetLastError: 'void()',
  virEventRegisterDefaultImpl: 'int()',
  virEventRunDefaultImpl: 'int()',
  virEventAddTimeout: 'int(int,f,p,p)',
  virGetVersion: 'int(b,s,b)',
  virConnectOpen: 'p(s)',
  virConnectClose: 'int(p)',
  virConnectIsAlive: 'int(p)',
  virConnectSetKeepAlive: 'int(p,int,uint)',
  virConnectRegisterCloseCallback: 'int(p,f,p,p)',
  virConnectUnregisterCloseCallback: 'int(p,f)',
  virConnectDomainEventRegisterAny: 'int(p,p,int,f,p,p)',
  virConnectDomainEventDeregisterAny: 'int(p,int)',
  virConnectGetVersion: 'int(p,b)',
  virConnectGetLibVersion: 'int(p,b)',
  virConnectGetType: 's(p)',
  virConnectGetHostname: 'str!(p)',
  virConnectGetURI: 'str!(p)',
  virConnectGetCapabilities: 'str!(p)',
  virConnectListAllDomains: 'int(p,b,uint)',
  virDomainLookupByUUIDString: 'p(p,s)',
  virDomainLookupByName: 'p(p,s)',
  virDomainFree: 'int(p)',
  virDomainGetName: 's(p)',
  virDomainGetUUIDString: 'int(p,b)',
  virDomainIsPersistent: 'int(p)',
  virDomainIsActive: 'int(p)',
  virDomainSetAutostart: 'int(p,int)',
  virDomainGetAutostart: 'int(p,b)',
  virDomainSetMetadata: 'int(p,int,s,s,s,uint)',
  virDomainRename: 'int(p,s,uint)',
  virDomainGetXMLDesc: 'str!(p,uint)',
  virDomainGetState: 'int(p,b,b,uint)',
  virDomainDefineXMLFlags: 'p(p,s,uint)',
  virDomainUndefineFlags: 'int(p,uint)',
  virDomainCreateXML: 'p(p,s,uint)',
  virDomainCreateWithFlags: 'int(p,uint)',
  virDomainDestroyFlags: 'int(p,uint)',
  virDomainShutdownFlags: 'int(p,uint)',
  virDomainSuspend: 'int(p)',
  virDomainResume: 'int(p)',
  virDomainAttachDeviceFlags: 'int(p,s,uint)',
  virDomainUpdateDeviceFlags: 'int(p,s,uint)',
  virDomainDetachDeviceFlags: 'int(p,s,uint)',
  virDomainGetBlockInfo: 'int(p,s,b,uint)',
  virDomainBlockResize: 'int(p,s,uint64_t,uint)',
  virDomainGetBlockJobInfo: 'int(p,s,b,uint)',
  virDomainBlockCopy: 'int(p,s,s,b,int,uint)',
  virDomainBlockJobAbort: 'int(p,s,uint)',
  virDomainBackupBegin: 'int(p,s,s,uint)',
  virDomainBackupGetXMLDesc: 'str!(p,uint)',
  virDomainGetJobInfo: 'int(p,b)',
  virDomainGetJobStats: 'int(p,b,b,b,uint)',
  virDomainAbortJob: 'int(p)',
  virTypedParamsFree: 'void(p,int)',
  virDomainListAllCheckpoints: 'int(p,b,uint)',
  virDomainCheckpointLookupByName: 'p(p,s,uint)',
  virDomainCheckpointGetName: 's(p)',
  virDomainCheckpointGetParent: 'p(p,uint)',
  virDomainCheckpointGetXMLDesc: 'str!(p,uint)',
  virDomainCheckpointCreateXML: 'p(p,s,uint)',
  virDomainCheckpointDelete: 'int(p,uint)',
  virDomainCheckpointFree: 'int(p)',
  virDomainAgentSetResponseTimeout: 'int(p,int,uint)',
  virDomainFSFreeze: 'int(p,p,uint,uint)',
  virDomainFSThaw: 'int(p,p,uint,uint)',
  virDomainQemuAgentCommand: 'str!(p,s,int,uint)',
  virDomainQemuMonitorCommand: 'int(p,s,b,uint)',
  virConnectListAllNetworks: 'int(p,b,uint)',
  virNetworkGetName: 's(p)',
  virNetworkFree: 'int(p)',
  virStoragePoolLookupByName: 'p(p,s)',
  virStoragePoolFree: 'int(p)',
  virStoragePoolRefresh: 'int(p,uint)',
  virStoragePoolGetInfo: 'int(p,b)',
  virStoragePoolGetXMLDesc: 'str!(p,uint)',
  virStorageVolCreateXML: 'p(p,s,uint)',
  virStorageVolDelete: 'int(p,uint)',
  virStorageVolLookupByName: 'p(p,s)',
  virStorageVolGetXMLDesc: 'str!(p,uint)',
  virStorageVolGetPath: 'str!(p)',
  virStorageVolFree: 'int(p)',
  virStreamNew: 'p(p,uint)',
  virStreamRecv: 'int(p,b,size_t)',
  virStreamFinish: 'int(p)',
  virStreamAbort: 'int(p)',
  virStreamFree: 'int(p)',
  virDomainScreenshot: 'str!(p,p,uint,uint)',
  free: 'void(p)',
};

const SHORT_TYPES: Readonly<Record<string, string>> = {
  p: 'intptr_t',
  f: 'void *',
  b: 'void *',
  s: 'str',
};

/**
 * Binds the functions of this thread, each at its first use: a libvirt that lacks one fails only the operation that
 * needs it, with NOT_SUPPORTED. Throws LIBVIRT_UNAVAILABLE when there is no library at all.
 */
export function bindLibvirt(): LibvirtApi {
  loadLibrary('libvirt');
  const loaded = new Map<LibraryName, ReturnType<typeof koffi.load>>();
  const api = {};
  for (const [name, signature] of Object.entries(SIGNATURES)) {
    Object.defineProperty(api, name, {
      configurable: true,
      enumerable: true,
      get: () => {
        const libraryName = libraryOf(name);
        const library = loaded.get(libraryName) ?? loadLibrary(libraryName);
        loaded.set(libraryName, library);
        const bound = bindFunction(library, name, signature);
        Object.defineProperty(api, name, { value: bound, enumerable: true });
        return bound;
      },
    });
  }
  return api as LibvirtApi;
}

/** The address of a C function that does nothing: libvirt's own error printer is replaced by it. */
export function silentHandler(): bigint {
  // getpid takes no argument and has no effect; a JavaScript callback could not be called from any thread.
  const address: unknown = loadLibrary('libc').symbol('getpid');
  if (typeof address !== 'bigint') throw new ApplianceError('INTERNAL', 'koffi did not return the address of getpid');
  return address;
}

/** Copies the NUL-terminated string at `pointer`; null for a null pointer. */
export function stringAt(pointer: Handle): string | null {
  return pointer === 0 ? null : koffi.decode.string(BigInt(pointer));
}

/** Copies `length` bytes from `pointer`. */
export function bytesAt(pointer: Handle, length: number): Buffer {
  if (length === 0) return Buffer.alloc(0);
  return Buffer.from(Buffer.from(koffi.view(BigInt(pointer), length)));
}

/** Reads a pointer that C wrote into an out-parameter. */
export function readPointer(buffer: Buffer, offset: number = 0): Handle {
  return Number(buffer.readBigUInt64LE(offset));
}

function libraryOf(name: string): LibraryName {
  if (name === 'free') return 'libc';
  return name.startsWith('virDomainQemu') ? 'qemu' : 'libvirt';
}

function loadLibrary(name: LibraryName): ReturnType<typeof koffi.load> {
  try {
    return koffi.load(LIBRARY_NAMES[name]);
  } catch (cause) {
    throw new ApplianceError('LIBVIRT_UNAVAILABLE', `the library ${LIBRARY_NAMES[name]} cannot be loaded`, { cause });
  }
}

function bindFunction(library: ReturnType<typeof koffi.load>, name: string, signature: string): unknown {
  const match = /^([\w!]+)\((.*)\)$/.exec(signature);
  if (match === null) throw new ApplianceError('INTERNAL', `the signature of ${name} is malformed`);
  const [, result = '', parameters = ''] = match;
  const types = parameters === '' ? [] : parameters.split(',').map((type) => SHORT_TYPES[type] ?? type);
  try {
    return library.func(name, resultType(result), types);
  } catch (cause) {
    throw new ApplianceError('NOT_SUPPORTED', `this libvirt does not have ${name}`, {
      cause,
      hint: 'Update libvirt; the function was added in a later release.',
    });
  }
}

function resultType(result: string): ReturnType<typeof koffi.type> {
  if (result === 'str!') return koffi.disposable('str');
  return koffi.type(SHORT_TYPES[result] ?? result);
}
