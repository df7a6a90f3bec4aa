// SPDX-License-Identifier: Apache-2.0
import { DOMAIN_STATES } from './constants.ts';
import type { Handle } from './library.ts';
import type { Screenshot } from './protocol.ts';
import type { Handlers, Session } from './session.ts';

type DomainOperation =
  | 'domainXml'
  | 'domainState'
  | 'isPersistent'
  | 'undefine'
  | 'start'
  | 'destroy'
  | 'shutdown'
  | 'suspend'
  | 'resume'
  | 'autostart'
  | 'setAutostart'
  | 'removeMetadata'
  | 'rename'
  | 'changeDevice'
  | 'screenshot'
  | 'blockInfo'
  | 'blockResize';

/** `struct _virDomainBlockInfo`: three 64-bit numbers. */
const BLOCK_INFO_LENGTH = 24;
const SCREENSHOT_CHUNK_BYTES = 256 * 1024;
/** An 8K screen as a plain PPM has 100 MB. */
const MAX_SCREENSHOT_BYTES = 256 * 1024 * 1024;
/** VIR_DOMAIN_METADATA_ELEMENT. */
const METADATA_ELEMENT = 2;
/** virDomainBlockResizeFlags: the size is in bytes. */
const RESIZE_IN_BYTES = 1;

/** Operations on one domain, by UUID. Each blocks; libvirt-domain.h. */
export const domainOperations: Handlers<DomainOperation> = {
  domainXml: (session, { uuid, flags }) =>
    session.withDomain(uuid, (domain) => session.expectString(session.api.virDomainGetXMLDesc(domain, flags))),

  domainState: (session, { uuid }) =>
    session.withDomain(uuid, (domain) => {
      const state = Buffer.alloc(4);
      const reason = Buffer.alloc(4);
      session.expectCount(session.api.virDomainGetState(domain, state, reason, 0));
      return { state: DOMAIN_STATES[state.readInt32LE(0)] ?? 'no-state', reason: reason.readInt32LE(0) };
    }),

  isPersistent: (session, { uuid }) =>
    session.withDomain(uuid, (domain) => session.expectCount(session.api.virDomainIsPersistent(domain)) === 1),

  undefine: (session, { uuid, flags }) =>
    command(session, uuid, (domain) => session.api.virDomainUndefineFlags(domain, flags)),
  start: (session, { uuid, flags }) =>
    command(session, uuid, (domain) => session.api.virDomainCreateWithFlags(domain, flags)),
  destroy: (session, { uuid, flags }) =>
    command(session, uuid, (domain) => session.api.virDomainDestroyFlags(domain, flags)),
  shutdown: (session, { uuid, flags }) =>
    command(session, uuid, (domain) => session.api.virDomainShutdownFlags(domain, flags)),
  suspend: (session, { uuid }) => command(session, uuid, (domain) => session.api.virDomainSuspend(domain)),
  resume: (session, { uuid }) => command(session, uuid, (domain) => session.api.virDomainResume(domain)),

  autostart: (session, { uuid }) =>
    session.withDomain(uuid, (domain) => {
      const isOn = Buffer.alloc(4);
      session.expectCount(session.api.virDomainGetAutostart(domain, isOn));
      return isOn.readInt32LE(0) !== 0;
    }),
  setAutostart: (session, { uuid, isOn }) =>
    command(session, uuid, (domain) => session.api.virDomainSetAutostart(domain, isOn ? 1 : 0)),
  removeMetadata: (session, { uuid, namespace, flags }) =>
    command(session, uuid, (domain) =>
      session.api.virDomainSetMetadata(domain, METADATA_ELEMENT, null, null, namespace, flags),
    ),
  rename: (session, { uuid, name }) => command(session, uuid, (domain) => session.api.virDomainRename(domain, name, 0)),

  changeDevice: (session, { uuid, change, xml, flags }) => {
    const { api } = session;
    const calls = {
      attach: (domain: Handle) => api.virDomainAttachDeviceFlags(domain, xml, flags),
      update: (domain: Handle) => api.virDomainUpdateDeviceFlags(domain, xml, flags),
      detach: (domain: Handle) => api.virDomainDetachDeviceFlags(domain, xml, flags),
    };
    command(session, uuid, calls[change]);
  },

  screenshot: (session, { uuid }) => session.withDomain(uuid, (domain) => takeScreenshot(session, domain)),

  blockInfo: (session, { uuid, disk }) =>
    session.withDomain(uuid, (domain) => {
      const info = Buffer.alloc(BLOCK_INFO_LENGTH);
      session.expectCount(session.api.virDomainGetBlockInfo(domain, disk, info, 0));
      return {
        capacityBytes: Number(info.readBigUInt64LE(0)),
        allocationBytes: Number(info.readBigUInt64LE(8)),
        physicalBytes: Number(info.readBigUInt64LE(16)),
      };
    }),

  blockResize: (session, { uuid, disk, sizeBytes }) =>
    command(session, uuid, (domain) => session.api.virDomainBlockResize(domain, disk, sizeBytes, RESIZE_IN_BYTES)),
};

/** A call that only succeeds or fails. */
function command(session: Session, uuid: string, call: (domain: Handle) => number): void {
  session.withDomain(uuid, (domain) => {
    session.expectCount(call(domain));
  });
}

function takeScreenshot(session: Session, domain: Handle): Screenshot {
  const { api } = session;
  const stream = session.expectHandle(api.virStreamNew(session.connection, 0));
  try {
    const mimeType = session.expectString(api.virDomainScreenshot(domain, stream, 0, 0));
    const parts: Buffer[] = [];
    const chunk = Buffer.alloc(SCREENSHOT_CHUNK_BYTES);
    let length = 0;
    for (;;) {
      const received = session.expectCount(api.virStreamRecv(stream, chunk, chunk.length));
      if (received === 0) break;
      parts.push(Buffer.from(chunk.subarray(0, received)));
      length += received;
      if (length > MAX_SCREENSHOT_BYTES) {
        api.virStreamAbort(stream);
        break;
      }
    }
    if (length <= MAX_SCREENSHOT_BYTES) session.expectCount(api.virStreamFinish(stream));
    return { mimeType, bytes: new Uint8Array(Buffer.concat(parts)) };
  } finally {
    api.virStreamFree(stream);
  }
}
