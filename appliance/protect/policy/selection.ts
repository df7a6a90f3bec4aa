// SPDX-License-Identifier: Apache-2.0
import type { Policy, PolicySelection } from './policy.ts';

/** A machine as a policy sees it. */
export interface SelectableMachine {
  readonly id: string;
  readonly name: string;
  /** The hypervisor's URI. */
  readonly host: string;
  /** Its name, or the URI. */
  readonly hostName: string;
  /** It runs there: of two hypervisors that know it, that one has it. */
  readonly isActive: boolean;
  readonly tags: readonly string[];
  /** `/prod/web`; null for none. */
  readonly folder: string | null;
  /** Why no policy may have it, in words (it runs from the appliance); null for an ordinary machine. */
  readonly excluded: string | null;
}

/** Who has a machine, and why. */
export interface Assignment {
  readonly policy: Policy | undefined;
  readonly reason: string;
}

/**
 * Gives each machine to one policy: among those that are enabled and select it the one of the highest priority, among equals the first
 * by name. The order of the policies does not matter.
 */
export class PolicySelector {
  readonly #ranked: readonly { readonly policy: Policy; readonly matcher: Matcher }[];

  constructor(policies: readonly Policy[]) {
    this.#ranked = [...policies]
      .sort(byRank)
      .map((policy) => ({ policy, matcher: matcherOf(policy.document.machines) }));
  }

  assign(machine: SelectableMachine): Assignment {
    if (machine.excluded !== null) return { policy: undefined, reason: machine.excluded };
    const matches = this.#ranked.flatMap(({ policy, matcher }) => {
      const why = matcher(machine);
      return why === undefined ? [] : [{ policy, why }];
    });
    const enabled = matches.filter(({ policy }) => policy.document.enabled);
    const [winner, ...others] = enabled;
    if (winner === undefined) return { policy: undefined, reason: reasonForNone(matches.map(({ policy }) => policy)) };
    const [second] = others;
    if (second === undefined) return { policy: winner.policy, reason: winner.why };
    const by = second.policy.document.priority === winner.policy.document.priority ? 'name' : 'priority';
    const before = others.map(({ policy }) => policy.name).join(', ');
    return { policy: winner.policy, reason: `${winner.why}; before ${before} by ${by}` };
  }
}

/** Why it selects the machine; undefined when it does not. */
type Matcher = (machine: SelectableMachine) => string | undefined;

function byRank(a: Policy, b: Policy): number {
  return b.document.priority - a.document.priority || (a.name < b.name ? -1 : a.name === b.name ? 0 : 1);
}

function reasonForNone(disabled: readonly Policy[]): string {
  if (disabled.length === 0) return 'no policy selects it';
  const names = disabled.map(({ name }) => name).join(', ');
  return `the ${disabled.length === 1 ? 'policy' : 'policies'} that would select it ${disabled.length === 1 ? 'is' : 'are'} disabled: ${names}`;
}

function matcherOf(selection: PolicySelection): Matcher {
  const names = (selection.names ?? []).map((pattern) => ({ pattern, test: globTest(pattern) }));
  const exceptNames = (selection.except ?? []).map(globTest);
  const exceptIds = new Set((selection.except ?? []).map((id) => id.toLowerCase()));
  const ids = new Set((selection.ids ?? []).map((id) => id.toLowerCase()));
  const tags = new Set(selection.tags ?? []);
  const folders = (selection.folders ?? []).map((folder) => folder.replace(/\/+$/, ''));
  const hosts = selection.hypervisors === undefined ? undefined : new Set(selection.hypervisors);
  return (machine) => {
    if (hosts !== undefined && !hosts.has(machine.host) && !hosts.has(machine.hostName)) return undefined;
    if (exceptIds.has(machine.id) || exceptNames.some((isMatch) => isMatch(machine.name))) return undefined;
    if (ids.has(machine.id)) return 'by its id';
    const name = names.find(({ test }) => test(machine.name));
    if (name !== undefined) return `by name (${name.pattern})`;
    const tag = machine.tags.find((candidate) => tags.has(candidate));
    if (tag !== undefined) return `by tag (${tag})`;
    const folder = folders.find((candidate) => isWithin(machine.folder, candidate));
    if (folder !== undefined) return `by folder (${folder === '' ? '/' : folder})`;
    return selection.all === true ? 'it takes every machine' : undefined;
  };
}

function isWithin(folder: string | null, parent: string): boolean {
  return folder !== null && (folder === parent || folder.startsWith(`${parent}/`));
}

/** `*` stands for any number of characters, `?` for one; everything else for itself. Linear in pattern times name, whatever the pattern. */
export function globTest(pattern: string): (name: string) => boolean {
  const wanted = Array.from(pattern);
  return (name) => {
    const chars = Array.from(name);
    let [at, n, star, mark] = [0, 0, -1, 0];
    while (n < chars.length) {
      if (wanted[at] === '*') [star, mark, at] = [at, n, at + 1];
      else if (at < wanted.length && (wanted[at] === '?' || wanted[at] === chars[n])) [at, n] = [at + 1, n + 1];
      else if (star >= 0) [mark, at, n] = [mark + 1, star + 1, mark + 1];
      else return false;
    }
    while (wanted[at] === '*') at += 1;
    return at === wanted.length;
  };
}
