// SPDX-License-Identifier: Apache-2.0

/** How a recovery point is named on the command line; for the help of every command that takes one. */
export const POINT_ARGUMENT: string =
  'POINT is an id, the unambiguous beginning of one, NAME@latest, NAME@-1 (the one before the newest), or NAME@<time> ' +
  '(the newest that is not later: web@2026-11-21T14:00, in local time unless it ends in Z; web@"5 minutes ago"). Of a ' +
  'machine under continuous protection any moment: by time, as web@bookmark:"before the upgrade", or as web@seq:123456.';
