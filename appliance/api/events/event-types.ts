// SPDX-License-Identifier: Apache-2.0

/**
 * What events tell. `run` holds a run's summary, with its progress; the others say that something of the kind has changed, and
 * by which operation: ask for it again.
 */
export const EVENT_TYPES = [
  'run',
  'machines',
  'points',
  'protection',
  'booted',
  'exports',
  'standbys',
  'policies',
  'repository',
  'hypervisors',
  'settings',
  'access',
  'notice',
] as const;

export type EventType = (typeof EVENT_TYPES)[number];
