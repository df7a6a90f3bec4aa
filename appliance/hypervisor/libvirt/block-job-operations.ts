// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import { BLOCK_JOB_INFO, BLOCK_JOB_KINDS } from './constants.ts';
import type { Handle } from './library.ts';
import type { BlockCopyParams, BlockJobInfo } from './protocol.ts';
import type { Handlers, Session } from './session.ts';
import { type NumberParam, writeTypedParams } from './typed-params.ts';

type BlockJobOperation = 'blockJobInfo' | 'blockCopy' | 'blockJobAbort';

/** `struct _virDomainBlockJobInfo`: an int, padding, an unsigned long, two 64-bit cursors. */
const BLOCK_JOB_INFO_LENGTH = 32;

/** Jobs on single disks. Each blocks; libvirt-domain.h. */
export const blockJobOperations: Handlers<BlockJobOperation> = {
  blockJobInfo: (session, { uuid, disk }) =>
    session.withDomain(uuid, (domain) => readBlockJobInfo(session, domain, disk)),

  blockCopy: (session, { uuid, disk, destinationXml, params, flags }) =>
    session.withDomain(uuid, (domain) => {
      const { bytes, count } = writeTypedParams(copyParams(params));
      session.expectCount(session.api.virDomainBlockCopy(domain, disk, destinationXml, bytes, count, flags));
    }),

  blockJobAbort: (session, { uuid, disk, flags }) =>
    session.withDomain(uuid, (domain) => {
      if (session.api.virDomainBlockJobAbort(domain, disk, flags) >= 0) return;
      const error = session.lastError();
      // "Invalid argument" is all that libvirt has for a disk without a job.
      if (session.api.virDomainGetBlockJobInfo(domain, disk, Buffer.alloc(BLOCK_JOB_INFO_LENGTH), 0) !== 0) throw error;
      throw new ApplianceError('NO_BLOCK_JOB', `no block job runs on ${disk}`, { details: { uuid, disk } });
    }),
};

function readBlockJobInfo(session: Session, domain: Handle, disk: string): BlockJobInfo | null {
  const info = Buffer.alloc(BLOCK_JOB_INFO_LENGTH);
  const flags = BLOCK_JOB_INFO.bandwidthBytes;
  const found = session.expectCount(session.api.virDomainGetBlockJobInfo(domain, disk, info, flags));
  if (found === 0) return null;
  return {
    kind: BLOCK_JOB_KINDS[info.readInt32LE(0)] ?? 'unknown',
    bandwidthBytes: Number(info.readBigUInt64LE(8)),
    currentBytes: Number(info.readBigUInt64LE(16)),
    endBytes: Number(info.readBigUInt64LE(24)),
  };
}

/** VIR_DOMAIN_BLOCK_COPY_BANDWIDTH, _GRANULARITY, _BUF_SIZE. */
function copyParams({ bandwidthBytes, granularityBytes, bufferBytes }: BlockCopyParams): NumberParam[] {
  const params: NumberParam[] = [];
  if (bandwidthBytes !== undefined) params.push({ field: 'bandwidth', type: 'ullong', value: bandwidthBytes });
  if (granularityBytes !== undefined) params.push({ field: 'granularity', type: 'uint', value: granularityBytes });
  if (bufferBytes !== undefined) params.push({ field: 'buf-size', type: 'ullong', value: bufferBytes });
  return params;
}
