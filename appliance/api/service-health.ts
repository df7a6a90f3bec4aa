// SPDX-License-Identifier: Apache-2.0

/** `GET /api/v1/service`. */
export interface ServiceHealth {
  readonly pid: number;
  readonly version: string;
  /** The state directory. */
  readonly state: string;
  readonly phase: 'serving' | 'stopping';
  readonly startedAt: string;
  /** Operations that run now, by name. */
  readonly running: readonly string[];
}
