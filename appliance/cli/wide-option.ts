// SPDX-License-Identifier: Apache-2.0
import type { Command } from 'commander';

/** An option of commands that print a table: by default it fits a terminal of 80 to 100 columns. */
export interface WideOption {
  readonly wide?: boolean;
}

export function addWide(command: Command): Command {
  return command.option('--wide', 'print all columns, with whole ids and times');
}
