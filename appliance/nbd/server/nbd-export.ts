// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice, BlockLimits } from '../../block/block-device.ts';
import { ApplianceError } from '../../core/errors.ts';
import { type ExtentKind, endOf, type Range } from '../../core/extents.ts';
import { ALLOCATION_STATE, BASE_ALLOCATION, FLAG } from '../protocol.ts';
import { ByteAccess } from './byte-access.ts';
import type { ContextExtent } from './reply-writer.ts';
import type { ReplyStyle } from './request.ts';

/**
 * Answers block status for one meta context: runs from the start of the range on, at least one, together at most as long
 * as the range; they may stop early.
 */
export type MetaContextSource = (range: Range) => Promise<readonly ContextExtent[]>;

/** What is offered under a name. */
export interface ExportOptions {
  /** At most 4096 bytes of UTF-8 without NUL; the empty name is what clients ask for by default. */
  readonly name: string;
  /** For people; shown by `nbdinfo`. */
  readonly description?: string;
  readonly device: BlockDevice;
  /** Closes the device when the export is removed. */
  readonly ownsDevice?: boolean;
  /** Refuses changes although the device would take them. */
  readonly isReadOnly?: boolean;
  /** A guest waits for each answer: while its requests follow one another closely, they are looked for (`ArrivalWatch`). */
  readonly isWatched?: boolean;
  /** Shown by LIST (default); an export that is not can still be opened by name. */
  readonly isListed?: boolean;
  /** Meta contexts besides `base:allocation`, by full name such as `qemu:dirty-bitmap:b0`. */
  readonly extraContexts?: ReadonlyMap<string, MetaContextSource>;
}

/** Counts since the export was added. */
export interface ExportStatistics {
  readonly connections: number;
  readonly requests: number;
  readonly errors: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

/** A connection as its export sees it. */
export interface ExportUser {
  /** Finishes what runs, answers everything new with ESHUTDOWN, and settles when the connection is closed. */
  drain(): Promise<void>;
  /** Ends it at once; settles when it is closed. */
  terminate(): Promise<void>;
}

/** One named device of a server. Made by `NbdServer.addExport`. */
export class NbdExport {
  readonly name: string;
  readonly description: string;
  readonly device: BlockDevice;
  readonly ownsDevice: boolean;
  readonly isReadOnly: boolean;
  readonly isListed: boolean;
  readonly isWatched: boolean;
  readonly access: ByteAccess;
  readonly sizeBytes: number;
  /** Constraints as advertised to clients that ask. */
  readonly limits: BlockLimits;
  readonly contexts: ReadonlyMap<string, MetaContextSource>;
  /** Connections that are in transmission on this export. */
  readonly users: Set<ExportUser> = new Set();
  requests = 0;
  errors = 0;
  bytesRead = 0;
  bytesWritten = 0;

  constructor(options: ExportOptions, maxPayloadBytes: number) {
    const { device } = options;
    this.name = options.name;
    this.description = options.description ?? '';
    this.device = device;
    this.ownsDevice = options.ownsDevice ?? false;
    this.isReadOnly = device.features.isReadOnly || options.isReadOnly === true;
    this.isListed = options.isListed ?? true;
    this.isWatched = options.isWatched ?? false;
    this.access = new ByteAccess(device);
    this.sizeBytes = device.sizeBytes;
    this.limits = advertisedLimits(device.limits, maxPayloadBytes);
    const allocation: MetaContextSource = (range) => this.#allocation(range);
    this.contexts = new Map([[BASE_ALLOCATION, allocation], ...(options.extraContexts ?? [])]);
  }

  get statistics(): ExportStatistics {
    const { requests, errors, bytesRead, bytesWritten } = this;
    return { connections: this.users.size, requests, errors, bytesRead, bytesWritten };
  }

  /** Transmission flags. (proto.md, "Transmission flags") */
  flags(style: ReplyStyle, hasContexts: boolean): number {
    const { features } = this.device;
    const canChange = !this.isReadOnly;
    const claims: readonly (readonly [boolean, number])[] = [
      [this.isReadOnly, FLAG.READ_ONLY],
      [features.canFlush, FLAG.SEND_FLUSH],
      [features.canFua || features.canFlush, FLAG.SEND_FUA],
      [canChange && features.canTrim, FLAG.SEND_TRIM],
      [canChange && features.canZero, FLAG.SEND_WRITE_ZEROES],
      [canChange && features.canZero && features.canFastZero, FLAG.SEND_FAST_ZERO],
      [this.isReadOnly || features.isMultiConnSafe, FLAG.CAN_MULTI_CONN],
      [features.canCache, FLAG.SEND_CACHE],
      [style !== 'simple', FLAG.SEND_DF],
      [style === 'extended' && hasContexts, FLAG.BLOCK_STATUS_PAYLOAD],
    ];
    let flags: number = FLAG.HAS_FLAGS;
    for (const [claim, flag] of claims) if (claim) flags |= flag;
    return flags;
  }

  async #allocation(range: Range): Promise<ContextExtent[]> {
    const extents = await this.access.extents(range);
    let end = range.offset;
    for (const extent of extents) {
      if (extent.offset !== end) throw new ApplianceError('INTERNAL', 'the extents of the device have a gap');
      end = endOf(extent);
    }
    return extents.map((extent) => ({ length: extent.length, status: ALLOCATION_OF[extent.kind] }));
  }
}

const ALLOCATION_OF: Readonly<Record<ExtentKind, number>> = {
  data: 0,
  zero: ALLOCATION_STATE.ZERO,
  hole: ALLOCATION_STATE.HOLE | ALLOCATION_STATE.ZERO,
};

/** What the specification allows: minimum ≤ 65536, preferred ≥ 512, maximum ≥ preferred. ("Block size constraints") */
function advertisedLimits(limits: BlockLimits, maxPayloadBytes: number): BlockLimits {
  const preferredBytes = Math.max(limits.preferredBytes, limits.minimumBytes, 512);
  const maximumBytes = Math.max(Math.min(limits.maximumBytes, maxPayloadBytes), preferredBytes);
  return { minimumBytes: limits.minimumBytes, preferredBytes, maximumBytes };
}
