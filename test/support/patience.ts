// SPDX-License-Identifier: Apache-2.0

/**
 * By how much every time limit of the tests is stretched, from UNDERSTUDY_TEST_PATIENCE (1 when it is not set): a busy or
 * slow machine is no failure. Limits only bound how long something that hangs is waited for.
 */
export function patience(): number {
  const factor = Number(process.env['UNDERSTUDY_TEST_PATIENCE'] ?? 1);
  if (!(factor >= 1 && factor <= 100)) throw new Error('UNDERSTUDY_TEST_PATIENCE must be a number from 1 to 100');
  return factor;
}
