// SPDX-License-Identifier: Apache-2.0
import type { Appliance } from '../api/operations.ts';
import {
  type AuditActReport,
  type AuditParams,
  type AuditVerdictReport,
  DEFAULT_AUDIT_ACTS,
} from '../api/schemas/audit.ts';
import type { AuditAnchor } from '../audit/anchor.ts';
import { listAudit } from '../audit/list.ts';
import { verifyAudit } from '../audit/verify.ts';
import type { Clock } from '../core/clock.ts';
import { parseTimeUs } from '../protect/selector.ts';
import type { ApplianceAudit } from './appliance-audit.ts';

type Operations = Pick<Appliance, 'audit' | 'auditVerify'>;

/** The audit log, read. */
export class AuditOperations implements Operations {
  readonly #audit: ApplianceAudit;
  readonly #clock: Clock;
  readonly #anchors: () => Promise<readonly AuditAnchor[]>;

  constructor(audit: ApplianceAudit, clock: Clock, anchors: () => Promise<readonly AuditAnchor[]>) {
    this.#audit = audit;
    this.#clock = clock;
    this.#anchors = anchors;
  }

  async audit({ since, until, newest, ...filter }: AuditParams): Promise<readonly AuditActReport[]> {
    const sinceMs = since === undefined ? undefined : this.#timeMs(since);
    const untilMs = until === undefined ? undefined : this.#timeMs(until);
    return listAudit(await this.#audit.log(), { ...filter, sinceMs, untilMs, limit: newest ?? DEFAULT_AUDIT_ACTS });
  }

  async auditVerify(): Promise<AuditVerdictReport> {
    return verifyAudit(await this.#audit.log(), await this.#anchors());
  }

  #timeMs(text: string): number {
    return Math.floor(parseTimeUs(text, this.#clock.nowMs()) / 1000);
  }
}
