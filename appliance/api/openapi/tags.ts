// SPDX-License-Identifier: Apache-2.0

/** What the parts of the interface are about. */
export const TAGS: Readonly<Record<string, string>> = {
  backups: 'Taking recovery points.',
  booted: 'Machines that run from the appliance.',
  documentation: 'The interface itself.',
  events: 'What happens.',
  exports: 'Disks of a state, served over NBD.',
  health: 'Whether the appliance works.',
  machines: 'The machines of the hypervisors, and their journals.',
  points: 'Recovery points, their holds and locks.',
  protection: 'Continuous protection.',
  repository: 'What the repository holds, and its upkeep.',
  restores: 'Putting a state somewhere.',
  retention: 'Which recovery points stay.',
  runs: 'What takes its time.',
  standbys: 'Spares that take over.',
};
