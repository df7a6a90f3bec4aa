// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import { JOB_KINDS, JOB_OPERATIONS } from './constants.ts';
import { type Handle, readPointer } from './library.ts';
import type { JobInfo } from './protocol.ts';
import type { Handlers, Session } from './session.ts';
import { readTypedParams } from './typed-params.ts';

type JobOperation = 'backupBegin' | 'backupXml' | 'jobInfo' | 'jobStats' | 'abortJob';

/** `struct _virDomainJobInfo`: an int, padding, eleven 64-bit numbers; with room to spare. */
const JOB_INFO_LENGTH = 128;

/** Backup and other jobs of one domain. Each blocks; libvirt-domain.h. */
export const jobOperations: Handlers<JobOperation> = {
  backupBegin: (session, { uuid, backupXml, checkpointXml, flags }) =>
    session.withDomain(uuid, (domain) => {
      // libvirt would wait 30 s for the running job before it refuses.
      const job = readJobInfo(session, domain);
      if (job.kind === 'bounded' || job.kind === 'unbounded') {
        throw new ApplianceError('DOMAIN_BUSY', 'another job runs on this machine', {
          details: { uuid, elapsedMs: job.elapsedMs },
        });
      }
      session.expectCount(session.api.virDomainBackupBegin(domain, backupXml, checkpointXml, flags));
    }),

  backupXml: (session, { uuid }) =>
    session.withDomain(uuid, (domain) => session.expectString(session.api.virDomainBackupGetXMLDesc(domain, 0))),

  jobInfo: (session, { uuid }) => session.withDomain(uuid, (domain) => readJobInfo(session, domain)),

  jobStats: (session, { uuid, flags }) =>
    session.withDomain(uuid, (domain) => {
      const type = Buffer.alloc(4);
      const list = Buffer.alloc(8);
      const count = Buffer.alloc(4);
      session.expectCount(session.api.virDomainGetJobStats(domain, type, list, count, flags));
      const pointer = readPointer(list);
      const length = count.readInt32LE(0);
      const params = readTypedParams(pointer, length);
      if (pointer !== 0) session.api.virTypedParamsFree(pointer, length);
      return {
        kind: JOB_KINDS[type.readInt32LE(0)] ?? 'none',
        operation: JOB_OPERATIONS[Number(params['operation'] ?? 0)] ?? 'unknown',
        params,
      };
    }),

  abortJob: (session, { uuid }) =>
    session.withDomain(uuid, (domain) => {
      session.expectCount(session.api.virDomainAbortJob(domain));
    }),
};

function readJobInfo(session: Session, domain: Handle): JobInfo {
  const info = Buffer.alloc(JOB_INFO_LENGTH);
  session.expectCount(session.api.virDomainGetJobInfo(domain, info));
  const number = (index: number): number => Number(info.readBigUInt64LE(8 + index * 8));
  return {
    kind: JOB_KINDS[info.readInt32LE(0)] ?? 'none',
    elapsedMs: number(0),
    fileTotalBytes: number(8),
    fileProcessedBytes: number(9),
    fileRemainingBytes: number(10),
  };
}
