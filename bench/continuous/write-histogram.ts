// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../appliance/core/errors.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';

/** Half a percent wide: from 10 µs to about 1 s. */
const BOUNDARIES_NS: readonly number[] = Array.from({ length: 2300 }, (_, n) => Math.round(10_000 * 1.005 ** n));

interface Statistics {
  readonly qdev?: string;
  readonly stats: {
    readonly wr_latency_histogram?: { readonly boundaries: readonly number[]; readonly bins: readonly number[] };
  };
}

/** QEMU's own histogram of the writes to one virtual disk, from a moment on (QMP `block-latency-histogram-set`). */
export class WriteHistogram {
  readonly #domain: Domain;
  readonly #id: string;

  private constructor(domain: Domain, id: string) {
    this.#domain = domain;
    this.#id = id;
  }

  /** Begins anew for the disk whose device libvirt calls `alias`. */
  static async start(domain: Domain, alias: string): Promise<WriteHistogram> {
    const id = `/machine/peripheral/${alias}/virtio-backend`;
    const args = { id, 'boundaries-write': BOUNDARIES_NS };
    await domain.monitorCommand({ execute: 'block-latency-histogram-set', arguments: args });
    return new WriteHistogram(domain, id);
  }

  /** Microseconds within which this share of the writes so far was complete. @throws ApplianceError NOT_SUPPORTED */
  async percentile(share: number): Promise<number> {
    const answer = (await this.#domain.monitorCommand({ execute: 'query-blockstats' })) as readonly Statistics[];
    const found = answer.find(({ qdev }) => qdev === this.#id)?.stats.wr_latency_histogram;
    if (found === undefined) throw new ApplianceError('NOT_SUPPORTED', 'this QEMU keeps no histogram of latencies');
    const total = found.bins.reduce((sum, count) => sum + count, 0);
    let seen = 0;
    for (const [bin, count] of found.bins.entries()) {
      seen += count;
      if (seen >= total * share) return (found.boundaries[bin] ?? Number.POSITIVE_INFINITY) / 1000;
    }
    return Number.NaN;
  }
}
