// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode, toError } from '../../core/errors.ts';
import { HostState, isHostError } from './host-state.ts';
import { type MachineRecord, MachineState } from './machine-state.ts';
import type { Moment } from './moment.ts';
import { type PlanInput, planRuns, type RunPlan } from './plan-runs.ts';
import type { Policy } from './policy.ts';
import { retryDelayMs } from './retry.ts';
import { PolicySelector, type SelectableMachine } from './selection.ts';

/** What a run is told, and tells. */
export interface RunWatch {
  readonly signal: AbortSignal;
  /** To be called while it makes progress. */
  readonly onProgress: () => void;
}

/** How a machine under continuous protection came to it. */
export interface ProtectionFacts {
  /** Null: the operator began it. */
  readonly policy: string | null;
  /** It has the wishes of this policy. */
  isAsWished(policy: Policy): boolean;
}

/** The world of the engine. Errors are `ApplianceError`s. */
export interface EnginePorts {
  moment(): Moment;
  /** URIs of the hypervisors that are known. */
  hosts(): readonly string[];
  machines(host: string): Promise<readonly SelectableMachine[]>;
  policies(): readonly Policy[];
  limits(): { readonly perHost: number; readonly perRepository: number };
  /** When the newest good point of each machine was taken, by machine id, ms since the epoch. */
  newestPoints(): Promise<ReadonlyMap<string, number>>;
  /** The machines under continuous protection, by id. */
  protection(): Promise<ReadonlyMap<string, ProtectionFacts>>;
  /** Takes a recovery point. Returns when it was taken, ms since the epoch, as `newestPoints` says it. */
  backup(machine: SelectableMachine, policy: Policy, watch: RunWatch): Promise<number>;
  protect(machine: SelectableMachine, policy: Policy, watch: RunWatch): Promise<void>;
  /** Ends protection that the policy of this name began. */
  unprotect(machine: SelectableMachine, policy: string, signal: AbortSignal): Promise<void>;
  /** Deletes what the policy's rule lets go. */
  retain(machine: SelectableMachine, policy: Policy, signal: AbortSignal): Promise<void>;
  /** Why nothing may be deleted by a rule now; null when it may. */
  retentionProblem(): Promise<string | null>;
  readonly records: {
    load(): Promise<readonly MachineRecord[]>;
    put(record: MachineRecord): Promise<void>;
    remove(machineId: string): Promise<void>;
  };
  onNotice(sentence: string): void;
  /** Something became of a run: `step` has something to do. */
  onChange(): void;
}

/** So often the machines of a hypervisor that answers are read. */
export const INVENTORY_MS = 120_000;
/** So often it is looked for points that others made. */
const FACTS_MS = 300_000;
/** A rule is applied after a run, but not more often, and at least once a day. */
export const RETAIN_AFTER_RUN_MS = 3_600_000;
const RETAIN_MS = 24 * 3_600_000;
/** When it could not be: tried again after this. */
const RETAIN_AGAIN_MS = 600_000;
const MINUTE_MS = 60_000;
/** A run that makes no progress for so long is ended, and leaves its place to others. */
export const STALL_MS = 3_600_000;
/** A run that somebody cancelled is not begun again at once. */
const CANCELLED_MS = 3_600_000;
const MAX_REPOSITORY_DELAY_MS = 15 * 60_000;

interface Running {
  readonly state: MachineState;
  readonly abort: AbortController;
  progressAtMs: number;
}

/**
 * Does what the policies want: learns which machines there are, gives each to its policy, starts what is due in the order of
 * `planRuns`, and applies the rules of retention. It has no timer: `step` does what is to be done now, and says when to come
 * again.
 *
 * Invariants: at most one run of a machine; what it holds is bounded by the machines of the hypervisors; a hypervisor that does not answer
 * changes nothing of what is known about its machines; a machine's failure delays nobody else.
 */
export class PolicyEngine {
  readonly #ports: EnginePorts;
  readonly #states = new Map<string, MachineState>();
  readonly #hosts = new Map<string, HostState>();
  readonly #running = new Map<string, Running>();
  readonly #toRetain = new Set<MachineState>();
  readonly #tasks = new Set<Promise<void>>();
  readonly #closing = new AbortController();
  #records = new Map<string, MachineRecord>();
  #policies: readonly Policy[] = [];
  #selector = new PolicySelector([]);
  #protection: ReadonlyMap<string, ProtectionFacts> = new Map();
  #factsAtMs = Number.NEGATIVE_INFINITY;
  #isReadingFacts = false;
  #hasFacts = false;
  #isRetaining = false;
  /** In uptime: not before, and when it was last looked for machines that are due. */
  #retainAtMs = Number.NEGATIVE_INFINITY;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #repository: { readonly attempts: number; readonly retryAtMs: number } | null = null;

  constructor(ports: EnginePorts) {
    this.#ports = ports;
  }

  /** Learns what is kept. Once, before the first step. */
  async open(): Promise<void> {
    this.#records = new Map((await this.#ports.records.load()).map((record) => [record.machineId, record]));
  }

  /** Starts what is to be done now. Returns the uptime at which there may be more to do; sooner when `onChange` is called. */
  step(): number {
    const now = this.#ports.moment();
    if (this.#closing.signal.aborted) return Number.POSITIVE_INFINITY;
    this.#takePolicies();
    this.#readHosts(now);
    this.#readFacts(now);
    this.#endStalled(now);
    // Before it is known what there is, everything would look overdue.
    if (!this.#hasFacts) return now.uptimeMs + 1_000;
    const plan = planRuns(this.planInput(now));
    for (const { id } of plan.runs) {
      const state = this.#states.get(id);
      if (state !== undefined) this.#start(state, now);
    }
    this.#endProtection();
    this.#retain(now);
    const reads = [...this.#hosts.values()].map(({ readAtMs }) => readAtMs);
    return Math.max(now.uptimeMs, Math.min(plan.wakeAtMs, this.#factsAtMs, ...reads));
  }

  /** Learns what there is, without beginning anything: for one that never steps. */
  async survey(): Promise<void> {
    const now = this.#ports.moment();
    this.#takePolicies();
    this.#readHosts(now);
    await this.settled();
    this.#readFacts(now);
    await this.settled();
  }

  /** The plan of now, by the policies that there are now, without doing it. */
  plan(now: Moment = this.#ports.moment()): RunPlan {
    this.#takePolicies();
    return planRuns(this.planInput(now));
  }

  planInput(now: Moment): PlanInput {
    const machines = [...this.#states.values()].flatMap((state) =>
      state.policy === undefined || !state.hasFacts ? [] : [state.planned(state.policy, now)],
    );
    return {
      machines,
      hosts: this.#hosts,
      limits: this.#ports.limits(),
      running: this.#running.size,
      repositoryRetryAtMs: this.#repository?.retryAtMs ?? null,
      wallMs: now.wallMs,
      steadyMs: now.uptimeMs,
    };
  }

  /** Every machine that is known, with and without a policy. */
  get states(): readonly MachineState[] {
    return [...this.#states.values()];
  }

  state(machineId: string): MachineState | undefined {
    return this.#states.get(machineId);
  }

  get hosts(): readonly HostState[] {
    return [...this.#hosts.values()];
  }

  /** False until it is known what there is. */
  get isReady(): boolean {
    return this.#hasFacts;
  }

  /** Policies were changed, or something outside: everything is looked at again in the next step. */
  refresh(): void {
    for (const host of this.#hosts.values()) host.refresh();
    this.#lookedAtMs = Number.NEGATIVE_INFINITY;
    this.#factsAtMs = Number.NEGATIVE_INFINITY;
    this.#policies = [];
  }

  /** Ends what runs, and settles when nothing of it does. */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const { abort } of this.#running.values()) abort.abort();
    await this.settled();
  }

  /** Settles when nothing runs that was started up to then. */
  async settled(): Promise<void> {
    while (this.#tasks.size > 0) await Promise.all(this.#tasks);
  }

  #takePolicies(): void {
    const policies = this.#ports.policies();
    if (policies === this.#policies) return;
    this.#policies = policies;
    this.#selector = new PolicySelector(policies);
    for (const state of this.#states.values()) this.#assign(state);
  }

  #assign(state: MachineState): void {
    const { policy, reason } = this.#selector.assign(state.machine);
    state.policy = policy;
    state.reason = reason;
    const facts = this.#protection.get(state.machine.id);
    // What the operator began stays as it is.
    const isWished =
      facts !== undefined &&
      (facts.policy === null || (policy !== undefined && facts.policy === policy.name && facts.isAsWished(policy)));
    state.isProtectionDue = policy !== undefined && policy.schedule === undefined && !isWished;
  }

  #readHosts(now: Moment): void {
    const uris = new Set(this.#ports.hosts());
    for (const uri of uris) if (!this.#hosts.has(uri)) this.#hosts.set(uri, new HostState(uri));
    for (const [uri, host] of this.#hosts) {
      if (!uris.has(uri) && host.running === 0 && !host.isReading) this.#forgetHost(host);
      else if (!host.isReading && host.readAtMs <= now.uptimeMs) this.#track(this.#readHost(host));
    }
  }

  #forgetHost({ uri }: HostState): void {
    this.#hosts.delete(uri);
    for (const [id, { machine }] of this.#states) if (machine.host === uri) this.#states.delete(id);
  }

  async #readHost(host: HostState): Promise<void> {
    host.isReading = true;
    host.readAtMs = Number.POSITIVE_INFINITY;
    try {
      const machines = await this.#ports.machines(host.uri);
      const now = this.#ports.moment();
      host.answered(now.uptimeMs, INVENTORY_MS);
      await this.#learn(host, machines, now);
    } catch (error) {
      const failure = asApplianceError(error);
      if (host.problem === null)
        this.#ports.onNotice(`the machines of ${host.uri} could not be read: ${failure.message}`);
      host.failed(failure, this.#ports.moment().uptimeMs);
    } finally {
      host.isReading = false;
    }
  }

  async #learn(host: HostState, machines: readonly SelectableMachine[], now: Moment): Promise<void> {
    const there = new Set<string>();
    for (const machine of machines) {
      there.add(machine.id);
      const known = this.#states.get(machine.id);
      if (known === undefined) {
        const state = new MachineState(machine, now, this.#records.get(machine.id));
        this.#states.set(machine.id, state);
        this.#assign(state);
        if (state.policy !== undefined && !this.#records.has(machine.id)) await this.#keep(state);
        // A machine that is new here may have points from before.
        this.#factsAtMs = Number.NEGATIVE_INFINITY;
      } else if (isTheSame(known.machine, machine)) {
        known.machine = machine;
        this.#assign(known);
      }
    }
    for (const [id, state] of this.#states) {
      if (state.machine.host !== host.uri || there.has(id) || state.isRunning) continue;
      this.#states.delete(id);
      this.#records.delete(id);
      await this.#ports.records.remove(id);
    }
  }

  #readFacts(now: Moment): void {
    if (this.#isReadingFacts || this.#factsAtMs > now.uptimeMs) return;
    // Without machines there is nothing to know about.
    if (![...this.#hosts.values()].some(({ isKnown }) => isKnown)) return;
    this.#isReadingFacts = true;
    this.#factsAtMs = now.uptimeMs + FACTS_MS;
    this.#track(this.#learnFacts());
  }

  async #learnFacts(): Promise<void> {
    try {
      const newest = await this.#ports.newestPoints();
      this.#protection = await this.#ports.protection();
      const now = this.#ports.moment();
      for (const [id, state] of this.#states) {
        state.learnNewest(newest.get(id), now);
        state.hasFacts = true;
        this.#assign(state);
      }
      if (!this.#hasFacts) this.#lookedAtMs = Number.NEGATIVE_INFINITY;
      this.#hasFacts = true;
    } catch (error) {
      this.#ports.onNotice(`recovery points and protection could not be looked at: ${asApplianceError(error).message}`);
      this.#factsAtMs = this.#ports.moment().uptimeMs + 60_000;
    } finally {
      this.#isReadingFacts = false;
    }
  }

  #start(state: MachineState, now: Moment): void {
    const { policy, machine } = state;
    const host = this.#hosts.get(machine.host);
    if (policy === undefined || host === undefined) return;
    const running: Running = { state, abort: new AbortController(), progressAtMs: now.uptimeMs };
    state.isRunning = true;
    host.running += 1;
    this.#running.set(machine.id, running);
    this.#track(
      this.#run(running, policy, now).finally(() => {
        state.isRunning = false;
        host.running -= 1;
        this.#running.delete(machine.id);
      }),
    );
  }

  async #run(running: Running, policy: Policy, began: Moment): Promise<void> {
    const { state, abort } = running;
    const { machine } = state;
    const watch: RunWatch = {
      signal: abort.signal,
      onProgress: () => {
        running.progressAtMs = this.#ports.moment().uptimeMs;
      },
    };
    try {
      if (policy.schedule === undefined) {
        await this.#ports.protect(machine, policy, watch);
        state.isProtectionDue = false;
        this.#factsAtMs = Number.NEGATIVE_INFINITY;
      } else {
        const takenAtMs = await this.#ports.backup(machine, policy, watch);
        // By the uptime, whatever the clock did meanwhile.
        state.newest = { takenAtMs, stamp: began };
      }
      state.succeeded(policy.schedule === undefined ? undefined : began);
      this.#repository = null;
      if (hasRule(state) && state.retainedAgeMs(this.#ports.moment()) >= RETAIN_AFTER_RUN_MS) this.#toRetain.add(state);
    } catch (error) {
      // The end of the service is no failure: the next one finds it due as it was.
      if (this.#closing.signal.aborted || hasCode(error, 'INTERRUPTED')) return;
      this.#failed(state, asApplianceError(error));
    }
    await this.#keep(state);
  }

  #failed(state: MachineState, error: ApplianceError): void {
    const now = this.#ports.moment();
    const host = this.#hosts.get(state.machine.host);
    if (isHostError(error)) host?.failed(error, now.uptimeMs);
    if (hasCode(error, 'NO_SPACE')) {
      // It is nobody's fault: whoever is most overdue tries again, one at a time.
      const attempts = (this.#repository?.attempts ?? 0) + 1;
      const delayMs = Math.min(MAX_REPOSITORY_DELAY_MS, retryDelayMs('transient', attempts, 'repository'));
      this.#repository = { attempts, retryAtMs: now.uptimeMs + delayMs };
      state.failed(error, now, 0);
    } else state.failed(error, now, hasCode(error, 'ABORTED') ? CANCELLED_MS : undefined);
  }

  #endStalled(now: Moment): void {
    for (const { state, abort, progressAtMs } of this.#running.values()) {
      if (abort.signal.aborted || now.uptimeMs - progressAtMs < STALL_MS) continue;
      this.#ports.onNotice(`the run of ${state.machine.name} made no progress for an hour, and is ended`);
      abort.abort();
    }
  }

  /** Protection that a policy began, and that no policy wants any more. */
  #endProtection(): void {
    for (const [id, { policy: owner }] of this.#protection) {
      const state = this.#states.get(id);
      if (owner === null || state === undefined || state.isRunning) continue;
      if (this.#hosts.get(state.machine.host)?.problem !== null) continue;
      if (state.policy !== undefined && state.policy.schedule === undefined) continue;
      const kept = new Map(this.#protection);
      kept.delete(id);
      this.#protection = kept;
      this.#track(this.#unprotect(state, owner));
    }
  }

  async #unprotect({ machine }: MachineState, owner: string): Promise<void> {
    try {
      await this.#ports.unprotect(machine, owner, this.#closing.signal);
      this.#ports.onNotice(`${machine.name} is not protected continuously any more: policy ${owner} does not want it`);
    } catch (error) {
      this.#ports.onNotice(`protection of ${machine.name} could not be ended: ${asApplianceError(error).message}`);
    }
  }

  #retain(now: Moment): void {
    if (now.uptimeMs < this.#retainAtMs) return;
    if (now.uptimeMs >= this.#lookedAtMs + MINUTE_MS) {
      this.#lookedAtMs = now.uptimeMs;
      for (const state of this.#states.values()) {
        const hasPoints = state.newest !== undefined;
        if (hasPoints && hasRule(state) && state.retainedAgeMs(now) >= RETAIN_MS) this.#toRetain.add(state);
      }
    }
    if (this.#isRetaining || this.#toRetain.size === 0) return;
    this.#isRetaining = true;
    this.#track(this.#retainAll());
  }

  /** One machine after the other, and those that come meanwhile. */
  async #retainAll(): Promise<void> {
    try {
      // A problem is of the clock, and passes: the machines are taken up again when it has.
      if ((await this.#ports.retentionProblem()) !== null) return this.#postponeRetention();
      for (const state of this.#toRetain) {
        this.#toRetain.delete(state);
        if (this.#closing.signal.aborted) return;
        await this.#retainOne(state);
      }
    } catch (error) {
      this.#ports.onNotice(`whether old points may go could not be told: ${asApplianceError(error).message}`);
      this.#postponeRetention();
    } finally {
      this.#isRetaining = false;
    }
  }

  #postponeRetention(): void {
    this.#toRetain.clear();
    this.#retainAtMs = this.#ports.moment().uptimeMs + RETAIN_AGAIN_MS;
  }

  async #retainOne(state: MachineState): Promise<void> {
    const { policy, machine } = state;
    if (policy === undefined) return;
    try {
      await this.#ports.retain(machine, policy, this.#closing.signal);
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#ports.onNotice(`old points of ${machine.name} stay for now: ${asApplianceError(error).message}`);
    }
    // Also after a failure: the next attempt is the next hour's or day's.
    state.retained(this.#ports.moment());
    await this.#keep(state);
  }

  /** That it cannot be kept is said, and makes a run come sooner after a restart. */
  async #keep(state: MachineState): Promise<void> {
    try {
      await this.#ports.records.put(state.record);
    } catch (error) {
      this.#ports.onNotice(`the state of ${state.machine.name} could not be kept: ${asApplianceError(error).message}`);
    }
  }

  #track(task: Promise<void>): void {
    const tracked = task.finally(() => {
      this.#tasks.delete(tracked);
      this.#ports.onChange();
    });
    this.#tasks.add(tracked);
  }
}

/** A machine that was moved is known to two hypervisors for a while: the one on which it runs has it. */
function isTheSame(known: SelectableMachine, machine: SelectableMachine): boolean {
  return known.host === machine.host || (machine.isActive && !known.isActive);
}

function hasRule({ policy }: MachineState): boolean {
  return policy?.hasRule === true;
}

function asApplianceError(error: unknown): ApplianceError {
  return error instanceof ApplianceError
    ? error
    : new ApplianceError('INTERNAL', toError(error).message, { cause: error });
}
