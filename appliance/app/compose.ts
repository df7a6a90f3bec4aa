// SPDX-License-Identifier: Apache-2.0

/**
 * One object of two: the members of `extra`, and for the rest those of `base`. Each method runs on its own object, so that what
 * the two keep private stays so.
 */
export function compose<Base extends object, Extra extends object>(base: Base, extra: Extra): Base & Extra {
  return new Proxy(base, {
    get(_target, property) {
      const owner: object = property in extra && !(property in Object.prototype) ? extra : base;
      const member: unknown = Reflect.get(owner, property, owner);
      return typeof member === 'function' ? (member.bind(owner) as unknown) : member;
    },
    has: (_target, property) => property in extra || property in base,
  }) as Base & Extra;
}
