// SPDX-License-Identifier: Apache-2.0
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { PolicyCreateParams, PolicySetParams } from '../api/schemas/policies.ts';
import { ApplianceError } from '../core/errors.ts';
import { defined } from './command-run.ts';

/** The options of `policy create` and `policy set`. */
export interface PolicyOptions {
  readonly all?: boolean;
  readonly machine?: readonly string[];
  readonly tag?: readonly string[];
  readonly folder?: readonly string[];
  readonly hypervisor?: readonly string[];
  readonly except?: readonly string[];
  readonly schedule?: string;
  readonly interval?: string;
  readonly continuous?: boolean;
  readonly durability?: 'group' | 'write';
  readonly journalWindow?: string;
  readonly journalSize?: string;
  readonly timeZone?: string;
  readonly priority?: number;
  readonly rpo?: string;
  readonly window?: string;
  readonly bandwidth?: string;
  readonly quiesce?: 'try' | 'always' | 'never';
  readonly keepLast?: number;
  readonly keepHourly?: number;
  readonly keepDaily?: number;
  readonly keepWeekly?: number;
  readonly keepMonthly?: number;
  readonly keepYearly?: number;
  readonly keepWithin?: string;
  readonly shorten?: boolean;
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

type Wishes = Omit<PolicySetParams, 'name' | 'clear'>;

export function addPolicyOptions(command: Command): Command {
  return command
    .option('--all', 'every machine')
    .option('--machine <name>', 'machines of this name (with * and ?) or UUID; may be repeated', collect)
    .option('--tag <tag>', 'machines with this tag; may be repeated', collect)
    .option('--folder <path>', 'machines in this folder or beneath it; may be repeated', collect)
    .option('--hypervisor <uri>', 'only on this hypervisor; may be repeated', collect)
    .option('--except <name>', 'not those of this name or UUID; may be repeated', collect)
    .option('--schedule <when>', '`daily 22:00`, `every 15m`, `hourly`, `weekdays 20:00`, `weekly sun 03:00`, or cron')
    .option('--continuous', 'keep every write')
    .option('--interval <time>', 'keep a state each so often: 5s')
    .addOption(new Option('--durability <when>', 'as of `protect`').choices(['group', 'write']))
    .option('--journal-window <time>', 'how long any moment can be recovered: 24h')
    .option('--journal-size <size>', 'how large a journal may get: 50GiB')
    .option('--time-zone <zone>', 'whose calendar and clock (default: the one of this command)')
    .option('--priority <n>', 'the highest has a machine that several choose (default: 0)', wholeNumber(-1000))
    .option('--rpo <time>', 'how old the newest state may be: 30m (default: half as much again as between runs)')
    .option('--window <hours>', 'when runs may begin: 22:00-06:00')
    .option('--bandwidth <rate>', 'bytes per second that each run may read: 50MiB')
    .addOption(new Option('--quiesce <rule>', 'freeze the guest').choices(['try', 'always', 'never']))
    .option('--keep-last <n>', 'the newest points', wholeNumber(1))
    .option('--keep-hourly <n>', 'the newest point of each hour', wholeNumber(1))
    .option('--keep-daily <n>', 'the newest point of each day', wholeNumber(1))
    .option('--keep-weekly <n>', 'the newest point of each week', wholeNumber(1))
    .option('--keep-monthly <n>', 'the newest point of each month', wholeNumber(1))
    .option('--keep-yearly <n>', 'the newest point of each year', wholeNumber(1))
    .option('--keep-within <span>', 'every point not older than the newest by more: 14d')
    .option('--shorten', 'even if recovery points go that would stay otherwise');
}

/** What was said; the rest is left out. @throws ApplianceError BAD_ARGUMENT */
export function policyWishes(options: PolicyOptions): Wishes {
  const modes = [options.schedule, options.interval, options.continuous].filter((mode) => mode !== undefined);
  if (modes.length > 1) {
    throw new ApplianceError('BAD_ARGUMENT', 'give one of --schedule, --interval and --continuous');
  }
  const { schedule, interval, durability, journalWindow, journalSize, timeZone } = options;
  const { priority, rpo, window, bandwidth, quiesce, shorten } = options;
  const mode = modes.length === 0 ? undefined : modeOf(options);
  const plainParts = { schedule, interval, durability, journalWindow, journalSize, timeZone, priority, rpo };
  return defined({
    ...plainParts,
    mode,
    window,
    bandwidth,
    quiesce,
    shorten,
    machines: selectionOf(options),
    keep: keepOf(options),
  });
}

/** What a new policy cannot do without. @throws ApplianceError BAD_ARGUMENT */
export function requiredParts({
  machines,
  mode,
  timeZone,
}: Wishes): Pick<PolicyCreateParams, 'machines' | 'mode' | 'timeZone'> {
  if (machines === undefined) {
    throw new ApplianceError('BAD_ARGUMENT', 'say which machines: --all, --machine, --tag or --folder');
  }
  if (mode === undefined)
    throw new ApplianceError('BAD_ARGUMENT', 'give one of --schedule, --interval and --continuous');
  return { machines, mode, timeZone: timeZone ?? Intl.DateTimeFormat().resolvedOptions().timeZone };
}

function modeOf({ schedule, interval }: PolicyOptions): PolicyCreateParams['mode'] {
  if (schedule !== undefined) return 'scheduled';
  return interval === undefined ? 'continuous' : 'interval';
}

function selectionOf({ all, machine, tag, folder, hypervisor, except }: PolicyOptions): Wishes['machines'] {
  if ([all, machine, tag, folder, hypervisor, except].every((part) => part === undefined)) return undefined;
  const names = machine?.filter((name) => !UUID.test(name));
  const ids = machine?.filter((name) => UUID.test(name));
  const lists = { names, ids, tags: tag, folders: folder, hypervisors: hypervisor, except };
  const given = Object.entries(lists).filter(([, list]) => list !== undefined && list.length > 0);
  return { ...defined({ all }), ...Object.fromEntries(given) };
}

function keepOf(options: PolicyOptions): Wishes['keep'] {
  const keep = {
    last: options.keepLast,
    hourly: options.keepHourly,
    daily: options.keepDaily,
    weekly: options.keepWeekly,
    monthly: options.keepMonthly,
    yearly: options.keepYearly,
    within: options.keepWithin,
  };
  return Object.values(keep).every((part) => part === undefined) ? undefined : defined(keep);
}

function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

function wholeNumber(from: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d{1,6}$/.test(text) || value < from) {
      throw new InvalidArgumentError(`it must be a whole number from ${from} on.`);
    }
    return value;
  };
}
