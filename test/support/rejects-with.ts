// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { ErrorCode } from '../../appliance/core/error-codes.ts';
import { hasCode } from '../../appliance/core/errors.ts';

/** Asserts that the promise rejects with an `ApplianceError` of that code; anything else is shown as the cause. */
export async function rejectsWith(promise: Promise<unknown>, code: ErrorCode): Promise<void> {
  await assert.rejects(promise, (error: unknown) => {
    if (hasCode(error, code)) return true;
    throw new Error(`expected ${code}, got ${String(error)}`, { cause: error });
  });
}
