// SPDX-License-Identifier: Apache-2.0

/** A broken assumption of our own code: never caught to go on, the process ends and recovery runs at the next start. */
export class InvariantViolation extends Error {
  override readonly name = 'InvariantViolation';
}

/**
 * States what must hold at this line. For programmer errors only: what a peer, a file or a person sends is checked
 * with an `ApplianceError` instead.
 */
export function invariant(condition: unknown, statement: string): asserts condition {
  if (!condition) throw new InvariantViolation(`invariant does not hold: ${statement}`);
}
