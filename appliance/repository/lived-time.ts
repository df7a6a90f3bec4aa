// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import { Ajv } from 'ajv';
import { hasCode } from '../core/errors.ts';
import type { HostUptime } from '../core/uptime.ts';
import { checkStoredJson, corruptObject, encodeJson, parseStoredJson, withMac } from './authenticated-json.ts';
import { FORMAT_VERSION } from './format.ts';
import { refuseOtherVersion } from './manifest.ts';
import type { ObjectStore } from './object-store.ts';

/** The object that holds the record. */
export const LIVED_TIME_KEY = 'clock.json';
/** A record that is not older is not written again. */
export const RECORD_INTERVAL_MS: number = 10 * 60_000;

interface LivedTimeRecord {
  readonly format: 'understudy-clock';
  readonly version: number;
  readonly livedMs: number;
  /** The start of the host's kernel that `uptimeMs` counts from. */
  readonly bootId: string;
  readonly uptimeMs: number;
}

const milliseconds = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER } as const;
const isRecord = new Ajv({ strict: false, validateSchema: false }).compile<LivedTimeRecord & { readonly mac: string }>({
  type: 'object',
  required: ['format', 'version', 'livedMs', 'bootId', 'uptimeMs', 'mac'],
  additionalProperties: false,
  properties: {
    format: { const: 'understudy-clock' },
    version: { const: FORMAT_VERSION },
    livedMs: milliseconds,
    bootId: { type: 'string' },
    uptimeMs: milliseconds,
    mac: { type: 'string' },
  },
});

/**
 * The time that the appliance's host was up since the record began: a count that goes forward only, and never faster than
 * time itself. Setting the clock does not move it: it is the sum of the kernel's uptimes. While the host was off, and from the
 * last record to a restart of it, it stands still; a date that waits for it comes later then, never earlier.
 *
 * Invariant: for two readings a before b, `0 <= b - a <=` the time that passed between them.
 */
export class LivedTime {
  readonly #store: ObjectStore;
  readonly #key: KeyObject;
  readonly #uptime: () => HostUptime;
  #anchor: (HostUptime & { readonly livedMs: number }) | undefined;
  #recorded: (HostUptime & { readonly livedMs: number }) | undefined;

  constructor(store: ObjectStore, key: KeyObject, uptime: () => HostUptime) {
    this.#store = store;
    this.#key = key;
    this.#uptime = uptime;
  }

  /**
   * The lived time now, at least `floorMs`: what stored guards have seen, should the record have been lost.
   * @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT, IO_FAILED
   */
  async now(floorMs: number): Promise<number> {
    this.#anchor ??= await this.#load();
    const up = this.#uptime();
    const { livedMs, bootId, uptimeMs } = this.#anchor ?? { livedMs: floorMs, ...up };
    const isSameStart = up.bootId === bootId && up.uptimeMs >= uptimeMs;
    const nowMs = Math.max(floorMs, livedMs + (isSameStart ? up.uptimeMs - uptimeMs : 0));
    this.#anchor = { livedMs: nowMs, ...up };
    return nowMs;
  }

  /** Makes the record of now durable, unless the one that is stored tells later processes enough. Errors as `now`; NO_SPACE. */
  async record(floorMs: number): Promise<void> {
    const livedMs = await this.now(floorMs);
    const { bootId, uptimeMs } = this.#anchor ?? this.#uptime();
    const known = this.#recorded;
    if (known?.bootId === bootId && uptimeMs >= known.uptimeMs && livedMs - known.livedMs < RECORD_INTERVAL_MS) return;
    const record: LivedTimeRecord = { format: 'understudy-clock', version: FORMAT_VERSION, livedMs, bootId, uptimeMs };
    await this.#store.replace(LIVED_TIME_KEY, encodeJson(withMac(record, this.#key)));
    this.#recorded = record;
  }

  /** True when there is a record, which is then worth being kept up to date. Errors as `now`. */
  async isRecorded(): Promise<boolean> {
    this.#anchor ??= await this.#load();
    return this.#recorded !== undefined;
  }

  async #load(): Promise<LivedTimeRecord | undefined> {
    const record = await readLivedTime(this.#store, this.#key);
    this.#recorded = record;
    return record;
  }
}

/** The stored record, checked; undefined where there is none. @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT, IO_FAILED */
export async function readLivedTime(store: ObjectStore, key: KeyObject): Promise<LivedTimeRecord | undefined> {
  let stored: Buffer;
  try {
    stored = await store.get(LIVED_TIME_KEY);
  } catch (error) {
    if (hasCode(error, 'OBJECT_NOT_FOUND')) return undefined;
    throw error;
  }
  const value = parseStoredJson(stored, LIVED_TIME_KEY);
  refuseOtherVersion(value, LIVED_TIME_KEY);
  if (!isRecord(value)) throw corruptObject(LIVED_TIME_KEY, 'is not a whole record of the time');
  checkStoredJson(stored, value, key, LIVED_TIME_KEY);
  const { mac: _, ...record } = value;
  return record;
}
