// SPDX-License-Identifier: Apache-2.0

/**
 * Names of the contexts that LIST_META_CONTEXT's queries ask for: a full name, or everything beneath a name that ends
 * with a colon (`base:`, `qemu:`, `qemu:dirty-bitmap:`). No query asks for all. (proto.md, "NBD_OPT_LIST_META_CONTEXT")
 */
export function listedContexts(available: Iterable<string>, queries: readonly string[]): string[] {
  const names = [...available];
  if (queries.length === 0) return names;
  const exact = new Set(queries);
  const prefixes = [...exact].filter((query) => query.endsWith(':'));
  return names.filter((name) => exact.has(name) || prefixes.some((prefix) => name.startsWith(prefix)));
}

/** Names of the contexts that SET_META_CONTEXT's queries select: full names only; no query selects none. */
export function selectedContexts(available: Iterable<string>, queries: readonly string[]): string[] {
  const exact = new Set(queries);
  return [...available].filter((name) => exact.has(name));
}
