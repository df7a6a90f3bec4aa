// SPDX-License-Identifier: Apache-2.0
import type { Access } from '../../../access/access.ts';
import type { AuditRecorder } from '../../audited-appliance.ts';
import type { OperationGuard } from '../../guard/operation-guard.ts';

/** What those who come over the network are let in with. */
export interface LoginParts {
  readonly access: Access;
  readonly guard: OperationGuard;
  /** Where logins are written down. */
  readonly recorder: AuditRecorder;
}
