// SPDX-License-Identifier: Apache-2.0
import type {
  PolicyCreateParams,
  PolicyEnableParams,
  PolicyParams,
  PolicyPreviewReport,
  PolicyReport,
  PolicySetParams,
  ScheduleReport,
} from '../../api/schemas/policies.ts';
import { ApplianceError } from '../../core/errors.ts';
import { pointsOfMachine } from '../../protect/point-selector.ts';
import { type Policy, type PolicyDocument, readPolicy } from '../../protect/policy/policy.ts';
import { PolicyEngine } from '../../protect/policy/policy-engine.ts';
import { PolicySelector, type SelectableMachine } from '../../protect/policy/selection.ts';
import { isShorter } from '../../protect/retention/shorter-rule.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import { coverOf, type MachineCover } from './machine-cover.ts';
import { POLICIES, PolicyBook } from './policy-book.ts';
import { type PolicyPortsParts, policyPorts } from './policy-ports.ts';
import { dueEntry, goingIds, keptInTheLongRun, policyReport, storedBytes, waitingEntry } from './policy-reports.ts';
import { PolicyScheduler } from './policy-scheduler.ts';

export type PolicyParts = Omit<PolicyPortsParts, 'core' | 'book' | 'onChange'> & {
  /** Opens catalog and repository, which the policies themselves do not need. */
  readonly open: () => Promise<PolicyPortsParts['core']>;
};

const UPCOMING = 5;
const SAMPLE_POINTS = 20;

/** What can be asked about policies, with and without a service that works on them. */
export class PolicyOperations {
  readonly #parts: PolicyParts;
  #book: Promise<PolicyBook> | undefined;
  #scheduler: PolicyScheduler | undefined;

  constructor(parts: PolicyParts) {
    this.#parts = parts;
  }

  /** Begins to do what the policies want; for the service. */
  async start(core: PolicyPortsParts['core']): Promise<void> {
    this.#scheduler = await PolicyScheduler.start({ ...this.#parts, core, book: await this.#open() });
  }

  /** Ends what runs on behalf of policies. Idempotent. */
  async stop(): Promise<void> {
    const scheduler = this.#scheduler;
    this.#scheduler = undefined;
    await scheduler?.[Symbol.asyncDispose]();
  }

  async list(): Promise<readonly PolicyReport[]> {
    const book = await this.#open();
    return book.all.map((policy) => policyReport(policy, book.entry(policy.name).revision));
  }

  async show({ name }: PolicyParams): Promise<PolicyReport> {
    const book = await this.#open();
    return policyReport(book.get(name), book.entry(name).revision);
  }

  /** @throws ApplianceError CONFLICT, BAD_ARGUMENT, CONFIRMATION_NEEDED, LIMIT_REACHED */
  async create({ shorten, ...wishes }: PolicyCreateParams): Promise<PolicyReport> {
    const book = await this.#open();
    const document: PolicyDocument = { enabled: true, priority: 0, quiesce: 'try', keep: {}, ...wishes };
    const policy = readPolicy(document);
    if (shorten !== true) await this.#refuseShortening(book.all, [...book.all, policy]);
    const { revision } = await book.collection.create(document.name, document);
    return policyReport(policy, revision);
  }

  /** @throws ApplianceError NOT_FOUND, CONFLICT, BAD_ARGUMENT, CONFIRMATION_NEEDED */
  async set({ shorten, clear = [], ...wishes }: PolicySetParams): Promise<PolicyReport> {
    return this.#change(wishes.name, shorten ?? false, (before) => {
      const dropped = new Set<string>([...clear, ...dependentParts(before, wishes)]);
      const kept = Object.entries(before).filter(([part]) => !dropped.has(part));
      return { ...(Object.fromEntries(kept) as unknown as PolicyDocument), ...wishes };
    });
  }

  async enable({ name, shorten }: PolicyEnableParams): Promise<PolicyReport> {
    return this.#change(name, shorten ?? false, (before) => ({ ...before, enabled: true }));
  }

  /** What it protects is not protected any more, unless another policy takes it. */
  async disable({ name }: PolicyParams): Promise<PolicyReport> {
    return this.#change(name, true, (before) => ({ ...before, enabled: false }));
  }

  async delete({ name }: PolicyParams): Promise<PolicyReport> {
    const report = await this.show({ name });
    const book = await this.#open();
    await book.collection.delete(name, { expect: report.revision });
    return report;
  }

  /** Which machines a policy catches now, what it keeps, when it runs next, and what that may take. */
  async preview({ name }: PolicyParams): Promise<PolicyPreviewReport> {
    const book = await this.#open();
    const policy = book.get(name);
    const { points, machines, problems } = await this.#known();
    const nowMs = this.#parts.clock.nowMs();
    const alone = new PolicySelector([{ ...policy, document: { ...policy.document, enabled: true } }]);
    const all = new PolicySelector(book.all);
    const caught = machines.flatMap((machine) => {
      if (alone.assign(machine).policy === undefined) return [];
      const { policy: winner, reason } = all.assign(machine);
      const isTaken = winner === policy;
      const own = pointsOfMachine(points, machine.id);
      const going = goingIds(own, policy, nowMs).size;
      const perRun = storedBytes(own.slice(0, SAMPLE_POINTS))?.perRun ?? null;
      const why = isTaken || winner === undefined ? reason : `policy ${winner.name} has it: ${reason}`;
      const { id, name: machineName, hostName: host } = machine;
      return [
        { id, machine: machineName, host, reason: why, isTaken, kept: own.length - going, going, bytesPerRun: perRun },
      ];
    });
    const keptPoints = keptInTheLongRun(policy);
    const taken = caught.filter(({ isTaken }) => isTaken);
    return {
      policy: policyReport(policy, book.entry(name).revision),
      machines: caught,
      next: (policy.schedule?.upcoming(nowMs, UPCOMING) ?? []).map((ms) => new Date(ms).toISOString()),
      keptPoints,
      expectedBytes: expectedBytes(
        taken.map(({ id }) => pointsOfMachine(points, id)),
        keptPoints,
      ),
      problems,
    };
  }

  /** What runs next, and why not now. */
  async schedule(): Promise<ScheduleReport> {
    const core = await this.#parts.open();
    const scheduler = this.#scheduler?.engine.isReady === true ? this.#scheduler : undefined;
    const engine = scheduler?.engine ?? (await this.#survey());
    const now = { wallMs: this.#parts.clock.nowMs(), ...this.#parts.uptime() };
    const { runs, waiting } = engine.plan(now);
    const next = runs.flatMap(({ id, policy }) => {
      const state = engine.state(id);
      return state === undefined ? [] : [dueEntry(state, policy, now)];
    });
    const others = waiting.flatMap((one) => {
      const state = engine.state(one.machine.id);
      return state === undefined ? [] : [{ dueAtMs: one.dueAtMs, entry: waitingEntry(one, state, now) }];
    });
    others.sort((a, b) => a.dueAtMs - b.dueAtMs || (a.entry.machine < b.entry.machine ? -1 : 1));
    const unprotected = engine.states.flatMap(({ machine: { id, name, hostName: host, excluded }, policy, reason }) =>
      policy === undefined && excluded === null ? [{ id, machine: name, host, reason }] : [],
    );
    const ports = policyPorts({ ...this.#parts, core, book: await this.#open(), onChange: ignore });
    return {
      isRunning: this.#scheduler !== undefined,
      retentionProblem: await ports.doubt.problem(),
      hosts: engine.hosts.map(({ uri, running, problem }) => ({ uri, running, problem })),
      machines: [...next, ...others.map(({ entry }) => entry)],
      unprotected,
    };
  }

  /** What lists of machines say of policies; see `coverOf`. */
  async cover(
    core: PolicyPortsParts['core'],
    host: { readonly uri: string; readonly name: string },
  ): Promise<(machineId: string) => MachineCover> {
    const now = { wallMs: this.#parts.clock.nowMs(), ...this.#parts.uptime() };
    const policies = (await this.#open()).all;
    return coverOf({ core, policies, nowMs: now.wallMs }, host, (id) =>
      this.#scheduler?.engine.state(id)?.newestAgeMs(now),
    );
  }

  #open(): Promise<PolicyBook> {
    this.#book ??= this.#parts.configuration.collection(POLICIES).then((collection) => new PolicyBook(collection));
    this.#book.catch(() => {
      this.#book = undefined;
    });
    return this.#book;
  }

  async #change(
    name: string,
    isConfirmed: boolean,
    change: (before: PolicyDocument) => PolicyDocument,
  ): Promise<PolicyReport> {
    const book = await this.#open();
    const before = book.get(name);
    const { revision: expect } = book.entry(name);
    const after = readPolicy(change(before.document));
    if (!isConfirmed) {
      if (isShorter(before.rule, after.rule))
        throw confirmationNeeded(`policy ${name} would keep fewer recovery points`);
      await this.#refuseShortening(
        book.all,
        book.all.map((policy) => (policy.name === name ? after : policy)),
      );
    }
    const { revision } = await book.collection.put(name, after.document, { expect });
    return policyReport(after, revision);
  }

  /** Refuses what lets points go now that stay with the policies as they are. @throws ApplianceError CONFIRMATION_NEEDED */
  async #refuseShortening(before: readonly Policy[], after: readonly Policy[]): Promise<void> {
    if (!after.some(({ hasRule, document }) => hasRule && document.enabled)) return;
    const { points, machines } = await this.#known();
    const nowMs = this.#parts.clock.nowMs();
    const [old, young] = [new PolicySelector(before), new PolicySelector(after)];
    let going = 0;
    const names: string[] = [];
    for (const machine of machines) {
      const { policy } = young.assign(machine);
      if (policy?.hasRule !== true) continue;
      const own = pointsOfMachine(points, machine.id);
      const { policy: known } = old.assign(machine);
      const gone = known === undefined ? new Set<string>() : goingIds(own, known, nowMs);
      const lost = [...goingIds(own, policy, nowMs)].filter((id) => !gone.has(id));
      if (lost.length > 0) names.push(machine.name);
      going += lost.length;
    }
    if (going === 0) return;
    const of = `${names.slice(0, 3).join(', ')}${names.length > 3 ? ` and ${names.length - 3} more` : ''}`;
    throw confirmationNeeded(`${going} recovery points of ${of} would not be kept any more`);
  }

  /** Points, and machines that a policy could have: of the hypervisors that answer, and those of points. */
  async #known(): Promise<{
    readonly points: readonly RecoveryPoint[];
    readonly machines: readonly SelectableMachine[];
    readonly problems: readonly string[];
  }> {
    const core = await this.#parts.open();
    const points = await core.catalog.points();
    const engine = this.#scheduler?.engine.isReady === true ? this.#scheduler.engine : await this.#survey();
    const machines = new Map(engine.states.map(({ machine }) => [machine.id, machine]));
    for (const { machine } of points) {
      if (machines.has(machine.id)) continue;
      const nowhere = { host: '', hostName: '', isActive: false, tags: [], folder: null, excluded: null };
      machines.set(machine.id, { id: machine.id, name: machine.name, ...nowhere });
    }
    const problems = engine.hosts.flatMap(({ uri, problem }) => (problem === null ? [] : [`${uri}: ${problem}`]));
    const sorted = [...machines.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    return { points, machines: sorted, problems };
  }

  /** An engine that has looked, and does nothing. */
  async #survey(): Promise<PolicyEngine> {
    const core = await this.#parts.open();
    const book = await this.#open();
    const ports = policyPorts({ ...this.#parts, core, book, onChange: ignore, onNotice: ignore });
    const keepNothing = { ...ports.records, put: () => Promise.resolve(), remove: () => Promise.resolve() };
    const engine = new PolicyEngine({ ...ports, records: keepNothing });
    await engine.open();
    await engine.survey();
    return engine;
  }
}

/** Parts that belong to the mode before, when another one is asked for. */
function dependentParts(before: PolicyDocument, { mode }: PolicySetParams): readonly string[] {
  if (mode === undefined || mode === before.mode) return [];
  const sessions = ['interval', 'durability', 'journalWindow', 'journalSize'];
  return mode === 'scheduled'
    ? sessions
    : mode === 'continuous'
      ? ['schedule', 'interval', 'window', 'bandwidth', 'quiesce']
      : ['schedule', 'window', 'bandwidth'];
}

function expectedBytes(machines: readonly (readonly RecoveryPoint[])[], keptPoints: number | null): number | null {
  if (keptPoints === null) return null;
  const known = machines.flatMap((points) => storedBytes(points) ?? []);
  if (known.length === 0) return null;
  return known.reduce((sum, { perRun, largest }) => sum + largest + perRun * (keptPoints - 1), 0);
}

function confirmationNeeded(message: string): ApplianceError {
  return new ApplianceError('CONFIRMATION_NEEDED', message, {
    hint: 'Add --shorten when that is meant; `understudy policy preview` shows what goes.',
  });
}

function ignore(): void {
  // Nobody waits for it.
}
