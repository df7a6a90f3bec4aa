// SPDX-License-Identifier: Apache-2.0
import type { PointLists } from '../catalog/catalog.ts';

/** What is made of all points, made once for as long as the catalog's lists are the same. What it gives must not be changed. */
export function perPoints<T extends object>(make: (lists: PointLists) => T): (lists: PointLists) => T {
  const known = new WeakMap<PointLists, T>();
  return (lists) => {
    const before = known.get(lists);
    if (before !== undefined) return before;
    const made = make(lists);
    known.set(lists, made);
    return made;
  };
}
