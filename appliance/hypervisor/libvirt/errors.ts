// SPDX-License-Identifier: Apache-2.0
import type { ErrorCode } from '../../core/error-codes.ts';
import { ApplianceError } from '../../core/errors.ts';
import { VIR_ERR } from './constants.ts';

/** libvirt's own error, copied from the thread that saw it (`struct _virError`, libvirt/virterror.h). */
export interface LibvirtFailure {
  /** virErrorNumber. */
  readonly code: number;
  /** virErrorDomain: the part of libvirt that raised it. */
  readonly domain: number;
  /** virErrorLevel. */
  readonly level: number;
  readonly message: string;
}

/** What the worker knew when a call failed, because libvirt's number alone does not tell. */
export interface FailureContext {
  readonly operation: string;
  /** False when the connection is gone: whatever the error says, that is the reason. */
  readonly isAlive: boolean;
  /** The domain the call was about, as the caller named it. */
  readonly subject?: string;
}

const BY_NUMBER: Readonly<Record<number, ErrorCode>> = {
  [VIR_ERR.noSupport]: 'NOT_SUPPORTED',
  [VIR_ERR.configUnsupported]: 'NOT_SUPPORTED',
  [VIR_ERR.argumentUnsupported]: 'NOT_SUPPORTED',
  [VIR_ERR.operationUnsupported]: 'NOT_SUPPORTED',
  [VIR_ERR.unknownHost]: 'LIBVIRT_CONNECT_FAILED',
  [VIR_ERR.noConnect]: 'LIBVIRT_CONNECT_FAILED',
  [VIR_ERR.authFailed]: 'LIBVIRT_DENIED',
  [VIR_ERR.authCancelled]: 'LIBVIRT_DENIED',
  [VIR_ERR.authUnavailable]: 'LIBVIRT_DENIED',
  [VIR_ERR.accessDenied]: 'LIBVIRT_DENIED',
  [VIR_ERR.xmlError]: 'DOMAIN_XML_INVALID',
  [VIR_ERR.xmlDetail]: 'DOMAIN_XML_INVALID',
  [VIR_ERR.xmlInvalidSchema]: 'DOMAIN_XML_INVALID',
  [VIR_ERR.domainExists]: 'DOMAIN_EXISTS',
  [VIR_ERR.noDomain]: 'DOMAIN_NOT_FOUND',
  [VIR_ERR.operationTimeout]: 'DOMAIN_BUSY',
  [VIR_ERR.blockCopyActive]: 'DOMAIN_BUSY',
  [VIR_ERR.resourceBusy]: 'DOMAIN_BUSY',
  [VIR_ERR.noStoragePool]: 'VOLUME_NOT_FOUND',
  [VIR_ERR.noStorageVolume]: 'VOLUME_NOT_FOUND',
  [VIR_ERR.storageVolumeExists]: 'TARGET_EXISTS',
  [VIR_ERR.noCheckpoint]: 'CHECKPOINT_NOT_FOUND',
  [VIR_ERR.noBackup]: 'NO_BACKUP_JOB',
  [VIR_ERR.checkpointInconsistent]: 'CHECKPOINT_INCONSISTENT',
  [VIR_ERR.agentUnresponsive]: 'AGENT_UNAVAILABLE',
  [VIR_ERR.agentUnsynced]: 'AGENT_FAILED',
  [VIR_ERR.agentCommandTimeout]: 'AGENT_TIMED_OUT',
};

const AGENT_OPERATIONS: readonly string[] = ['fsFreeze', 'fsThaw', 'agentCommand', 'setAgentTimeout'];

/** virDomainObjListAdd() refuses a name or UUID that is taken with the number of any failed operation. */
const EXISTS_TEXT = /already (exists with uuid|defined with uuid|active as)/;

/**
 * The two refusals that libvirt raises under numbers of many meanings: qemuDomainDiskBlockJobIsActive() and
 * qemuBackupBegin() have no number of their own, so the text decides here, and only here.
 */
const BUSY_TEXT =
  /\bblock ?job\b|another job|already active|backup job|cannot acquire state change lock|already in progress/i;

/** A libvirt error as an `ApplianceError`: `details` carries `libvirtCode`, `domain`, `level` and the operation. */
export function toApplianceError(failure: LibvirtFailure, context: FailureContext): ApplianceError {
  const code = codeOf(failure, context);
  return new ApplianceError(code, `${context.operation}: ${failure.message}`, {
    details: {
      libvirtCode: failure.code,
      domain: failure.domain,
      level: failure.level,
      operation: context.operation,
      ...(context.subject === undefined ? {} : { subject: context.subject }),
    },
  });
}

function codeOf(failure: LibvirtFailure, context: FailureContext): ErrorCode {
  if (context.operation === 'open') {
    return BY_NUMBER[failure.code] === 'LIBVIRT_DENIED' ? 'LIBVIRT_DENIED' : 'LIBVIRT_CONNECT_FAILED';
  }
  if (!context.isAlive || failure.code === VIR_ERR.invalidConn) return 'LIBVIRT_CONNECTION_LOST';
  if (AGENT_OPERATIONS.includes(context.operation)) return agentCodeOf(failure);
  if (failure.code === VIR_ERR.operationFailed && EXISTS_TEXT.test(failure.message)) return 'DOMAIN_EXISTS';
  const isVague =
    failure.code === VIR_ERR.operationInvalid ||
    failure.code === VIR_ERR.operationFailed ||
    failure.code === VIR_ERR.operationUnsupported ||
    failure.code === VIR_ERR.configUnsupported ||
    failure.code === VIR_ERR.internalError;
  if (isVague && BUSY_TEXT.test(failure.message)) return 'DOMAIN_BUSY';
  return (
    BY_NUMBER[failure.code] ?? (failure.code === VIR_ERR.operationInvalid ? 'DOMAIN_WRONG_STATE' : 'LIBVIRT_FAILED')
  );
}

function agentCodeOf(failure: LibvirtFailure): ErrorCode {
  switch (failure.code) {
    case VIR_ERR.argumentUnsupported:
    case VIR_ERR.configUnsupported:
      return 'AGENT_UNAVAILABLE';
    case VIR_ERR.operationInvalid:
      return 'DOMAIN_WRONG_STATE';
    default:
      return BY_NUMBER[failure.code] ?? 'AGENT_FAILED';
  }
}
