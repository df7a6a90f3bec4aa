// SPDX-License-Identifier: Apache-2.0
import { systemClock } from '../../appliance/core/clock.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';

export interface CallTimes {
  count: number;
  ms: number;
}

export interface ConnectionTimes {
  readonly operations: ReadonlyMap<string, CallTimes>;
  /** In which at least one call was under way. */
  readonly busyMs: number;
}

/** A connection that notes how long libvirt's answers took, by operation; calls wait for one another. */
export class TimedConnection implements AsyncDisposable {
  readonly connection: LibvirtConnection;
  #times = new Map<string, CallTimes>();
  #underWay = 0;
  #busySinceMs = 0;
  #busyMs = 0;

  private constructor(connection: LibvirtConnection) {
    this.connection = connection;
    const call: LibvirtConnection['call'] = connection.call.bind(connection);
    connection.call = async (operation, args, options) => {
      const beganMs = systemClock.elapsedMs();
      if (this.#underWay === 0) this.#busySinceMs = beganMs;
      this.#underWay += 1;
      try {
        return await call(operation, args, options);
      } finally {
        const times = this.#times.get(operation) ?? { count: 0, ms: 0 };
        this.#times.set(operation, { count: times.count + 1, ms: times.ms + systemClock.elapsedMs() - beganMs });
        this.#underWay -= 1;
        if (this.#underWay === 0) this.#busyMs += systemClock.elapsedMs() - this.#busySinceMs;
      }
    };
  }

  static async open(uri: string): Promise<TimedConnection> {
    return new TimedConnection(await LibvirtConnection.open(uri));
  }

  /** What was noted since the last time, and begins anew. */
  take(): ConnectionTimes {
    const nowMs = systemClock.elapsedMs();
    const isBusy = this.#underWay > 0;
    const times = { operations: this.#times, busyMs: this.#busyMs + (isBusy ? nowMs - this.#busySinceMs : 0) };
    this.#times = new Map();
    this.#busyMs = 0;
    this.#busySinceMs = nowMs;
    return times;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.connection[Symbol.asyncDispose]();
  }
}
