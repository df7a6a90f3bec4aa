// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../appliance/core/errors.ts';
import { type ClockRecord, isClockInDoubt, watchClock } from '../../appliance/protect/policy/clock-watch.ts';
import type { MachineRecord } from '../../appliance/protect/policy/machine-state.ts';
import { type Policy, type PolicyDocument, readPolicy } from '../../appliance/protect/policy/policy.ts';
import { type EnginePorts, PolicyEngine } from '../../appliance/protect/policy/policy-engine.ts';
import type { SelectableMachine } from '../../appliance/protect/policy/selection.ts';
import { decideRetention } from '../../appliance/protect/retention/decide.ts';

export const MINUTE_MS = 60_000;
export const HOUR_MS: number = 60 * MINUTE_MS;
export const DAY_MS: number = 24 * HOUR_MS;
const GRACE_MS: number = 7 * DAY_MS;

export interface SimulatedPoint {
  readonly sequence: number;
  readonly timeMs: number;
}

export interface SimulationOptions {
  readonly machines: number;
  readonly hosts: number;
  readonly policies: readonly PolicyDocument[];
  readonly perHost: number;
  readonly perRepository: number;
  readonly startIso: string;
  /** Events are looked at so often; runs take whole quanta. */
  readonly quantumMs: number;
  readonly runMs: readonly [least: number, most: number];
  /** Machines whose whole history is kept, for the reference. */
  readonly watched: number;
}

interface Machine {
  readonly selectable: SelectableMachine;
  points: SimulatedPoint[];
  /** Everything that was ever taken; undefined where it is not watched. */
  readonly history: SimulatedPoint[] | undefined;
  sequence: number;
  /** In steady time. */
  takenAtMs: number;
  retainedWallMs: number;
  runs: number;
}

interface Event {
  readonly atMs: number;
  readonly act: () => void;
}

export function policyDocument(name: string, over: Partial<PolicyDocument>): PolicyDocument {
  return {
    name,
    enabled: true,
    priority: 0,
    machines: { all: true },
    mode: 'scheduled',
    schedule: 'every 15m',
    timeZone: 'UTC',
    quiesce: 'try',
    keep: {},
    ...over,
  };
}

/** An appliance, hypervisors and a repository that take no time of their own: the engine is the real one, and so is the rule of retention. */
export class PolicySimulation {
  readonly machines = new Map<string, Machine>();
  readonly records = new Map<string, MachineRecord>();
  readonly notices = new Set<string>();
  /** Points that were deleted and can be brought back: when they go for good. */
  trash: number[] = [];
  steadyMs = 0;
  wallMs: number;
  bootId = 'first';
  isFull = false;
  readonly gone = new Set<string>();
  /** Per run: names that fail with this error. */
  readonly hanging = new Set<string>();
  readonly failing = new Map<string, () => ApplianceError>();
  readonly starts: { readonly atMs: number; readonly name: string }[] = [];
  readonly mostRunning = { host: 0, all: 0 };
  inventoryReads = 0;
  deletions = 0;
  runs = 0;
  engine: PolicyEngine;
  policies: readonly Policy[];
  readonly #options: SimulationOptions;
  readonly #events: Event[] = [];
  readonly #running = new Map<string, number>();
  #clock: ClockRecord | undefined;
  #seed = 12_345;

  constructor(options: SimulationOptions) {
    this.#options = options;
    this.wallMs = Date.parse(options.startIso);
    this.policies = options.policies.map(readPolicy);
    for (let n = 0; n < options.machines; n++) this.add(n);
    this.engine = new PolicyEngine(this.#ports());
  }

  add(n: number): void {
    const id = `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
    const host = `qemu+ssh://host${n % this.#options.hosts}/system`;
    const selectable = {
      id,
      name: `vm${n}`,
      host,
      hostName: host,
      isActive: true,
      tags: n % 2 === 0 ? ['even'] : [],
      folder: null,
      excluded: null,
    };
    const history = n < this.#options.watched ? [] : undefined;
    this.machines.set(id, {
      selectable,
      points: [],
      history,
      sequence: 0,
      takenAtMs: this.steadyMs,
      retainedWallMs: 0,
      runs: 0,
    });
  }

  /** A process that ends and another that begins. */
  async restart(offMs = 0): Promise<void> {
    const closing = this.engine.close();
    for (const { act } of this.#events.splice(0)) act();
    await closing;
    this.steadyMs += offMs;
    this.wallMs += offMs;
    this.engine = new PolicyEngine(this.#ports());
    await this.engine.open();
  }

  /** Goes on for so long; `look` is called after each quantum. */
  async advance(forMs: number, look?: () => void): Promise<void> {
    const endMs = this.steadyMs + forMs;
    const { quantumMs } = this.#options;
    while (this.steadyMs < endMs) {
      const wakeMs = this.engine.step();
      await settle();
      const nextMs = Math.min(wakeMs, this.#events[0]?.atMs ?? Number.POSITIVE_INFINITY, endMs);
      const byMs = Math.max(quantumMs, Math.ceil((nextMs - this.steadyMs) / quantumMs) * quantumMs);
      this.steadyMs += byMs;
      this.wallMs += byMs;
      while ((this.#events[0]?.atMs ?? Number.POSITIVE_INFINITY) <= this.steadyMs) this.#events.shift()?.act();
      await settle();
      look?.();
    }
    this.trash = this.trash.filter((goneMs) => goneMs > this.steadyMs);
  }

  get isClockInDoubt(): boolean {
    this.#watch();
    return this.#clock !== undefined && isClockInDoubt(this.#clock);
  }

  #ports(): EnginePorts {
    return {
      moment: () => ({ wallMs: this.wallMs, bootId: this.bootId, uptimeMs: this.steadyMs }),
      hosts: () => Array.from({ length: this.#options.hosts }, (_, n) => `qemu+ssh://host${n}/system`),
      machines: (host) => this.#inventory(host),
      policies: () => this.policies,
      limits: () => this.#options,
      newestPoints: () => {
        const newest = [...this.machines].flatMap(([id, { points }]): [string, number][] => {
          const last = points.at(-1);
          return last === undefined ? [] : [[id, last.timeMs]];
        });
        return Promise.resolve(new Map(newest));
      },
      protection: () => Promise.resolve(new Map()),
      protect: () => Promise.resolve(),
      unprotect: () => Promise.resolve(),
      backup: ({ id }, _policy, { signal }) => this.#backup(id, signal),
      retain: ({ id }, policy) => this.#retain(id, policy),
      retentionProblem: () => Promise.resolve(this.isClockInDoubt ? 'the clock is in doubt' : null),
      records: {
        load: () => Promise.resolve([...this.records.values()]),
        put: (record) => {
          this.records.set(record.machineId, record);
          return Promise.resolve();
        },
        remove: (id) => {
          this.records.delete(id);
          return Promise.resolve();
        },
      },
      onNotice: (sentence) => void this.notices.add(sentence),
      onChange: () => undefined,
    };
  }

  #inventory(host: string): Promise<readonly SelectableMachine[]> {
    this.inventoryReads += 1;
    if (this.gone.has(host)) return Promise.reject(new ApplianceError('LIBVIRT_CONNECT_FAILED', `${host} is gone`));
    return Promise.resolve(
      [...this.machines.values()].flatMap(({ selectable }) => (selectable.host === host ? [selectable] : [])),
    );
  }

  async #backup(id: string, signal: AbortSignal): Promise<number> {
    const machine = this.machines.get(id);
    if (machine === undefined) throw new ApplianceError('DOMAIN_NOT_FOUND', `${id} is gone`);
    const { name, host } = machine.selectable;
    this.starts.push({ atMs: this.steadyMs, name });
    this.runs += 1;
    const [began, taken] = [this.steadyMs, this.wallMs];
    const [least, most] = this.#options.runMs;
    this.#count(host, 1);
    try {
      if (this.hanging.has(name)) await aborted(signal);
      else await this.#after(least + (most - least) * this.#random());
    } finally {
      this.#count(host, -1);
    }
    if (signal.aborted) throw new ApplianceError('ABORTED', 'ended');
    const failure = this.failing.get(name);
    if (failure !== undefined) throw failure();
    if (this.gone.has(host)) throw new ApplianceError('LIBVIRT_CONNECTION_LOST', `${host} is gone`);
    if (this.isFull) throw new ApplianceError('NO_SPACE', 'the repository is full');
    const point = { sequence: ++machine.sequence, timeMs: taken };
    machine.points.push(point);
    machine.history?.push(point);
    machine.takenAtMs = began;
    machine.runs += 1;
    return taken;
  }

  #retain(id: string, policy: Policy): Promise<void> {
    const machine = this.machines.get(id);
    if (machine === undefined) return Promise.resolve();
    const points = machine.points.map(({ sequence, timeMs }) => ({
      id: `${sequence}`,
      sequence,
      timeMs,
      defect: null,
      kept: [],
    }));
    const terms = { rule: policy.rule, timeZone: policy.document.timeZone, nowMs: this.wallMs };
    const going = new Set(
      decideRetention(points, terms).flatMap(({ keep, id: point }) => (keep ? [] : [Number(point)])),
    );
    machine.points = machine.points.filter(({ sequence }) => !going.has(sequence));
    machine.retainedWallMs = this.wallMs;
    this.deletions += going.size;
    for (let n = 0; n < going.size; n++) this.trash.push(this.steadyMs + GRACE_MS);
    return Promise.resolve();
  }

  #count(host: string, by: number): void {
    const running = (this.#running.get(host) ?? 0) + by;
    this.#running.set(host, running);
    const all = [...this.#running.values()].reduce((sum, count) => sum + count, 0);
    this.mostRunning.host = Math.max(this.mostRunning.host, running);
    this.mostRunning.all = Math.max(this.mostRunning.all, all);
  }

  #after(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const event = { atMs: this.steadyMs + ms, act: resolve };
      const at = this.#events.findIndex(({ atMs }) => atMs > event.atMs);
      this.#events.splice(at < 0 ? this.#events.length : at, 0, event);
    });
  }

  #watch(): void {
    this.#clock = watchClock(this.#clock, { wallMs: this.wallMs, livedMs: this.steadyMs, bootId: this.bootId });
  }

  /** Park and Miller's generator: the same runs each time. */
  #random(): number {
    this.#seed = (this.#seed * 48_271) % 2_147_483_647;
    return this.#seed / 2_147_483_647;
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

/** Lets everything happen that waits for nothing. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
