// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import type { WireError } from './protocol.ts';

/** An error ready to be posted to another thread. */
export function toWireError(error: ApplianceError): WireError {
  return { code: error.code, message: error.message, details: error.details, hint: error.hint };
}

/** The same error in this thread. */
export function fromWireError(error: WireError): ApplianceError {
  return new ApplianceError(error.code, error.message, { details: error.details, hint: error.hint });
}
