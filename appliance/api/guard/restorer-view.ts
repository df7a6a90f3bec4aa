// SPDX-License-Identifier: Apache-2.0

/** Members that tell where things are, whatever their form: addresses, what recognises a disk, the position of a tracker. */
const PLACES = new Set(['connect', 'connectUri', 'uri', 'source', 'identity', 'tracker']);

/** A path, or an address. */
const PLACE = /^\/|^[a-z][a-z0-9+.-]*:\/\//i;

/**
 * A result without addresses of hypervisors and exports and without paths: texts are empty, objects have no members, so that its
 * schema still holds. Somebody who may restore a machine needs none of them, and could reach with them what is not theirs.
 */
export function forRestorer(result: unknown): unknown {
  if (typeof result === 'string') return PLACE.test(result) ? '' : result;
  if (Array.isArray(result)) return result.map(forRestorer);
  if (typeof result !== 'object' || result === null) return result;
  return Object.fromEntries(
    Object.entries(result).map(([name, value]) => [name, PLACES.has(name) ? blank(value) : forRestorer(value)]),
  );
}

function blank(value: unknown): unknown {
  if (typeof value === 'string') return '';
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? {} : forRestorer(value);
}
