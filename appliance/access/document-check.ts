// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';

/** What is true of a stored member. */
export type MemberCheck = (value: unknown) => boolean;

/**
 * A check of documents that come from a file: an object with these members and nothing else.
 * @throws BAD_ARGUMENT naming the first member that is wrong, never its content
 */
export function documentCheck<T>(
  what: string,
  members: Readonly<Record<keyof T & string, MemberCheck>>,
): (value: unknown) => T {
  return (value) => {
    const found = typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
    const wrong =
      Object.entries<MemberCheck>(members).find(([name, isRight]) => !isRight(found[name]))?.[0] ??
      Object.keys(found).find((name) => !Object.hasOwn(members, name));
    if (wrong !== undefined) throw new ApplianceError('BAD_ARGUMENT', `the ${wrong} of a ${what} is not valid`);
    return value as T;
  };
}

export const isText: MemberCheck = (value) => typeof value === 'string';
export const isFlag: MemberCheck = (value) => typeof value === 'boolean';
export const isCount: MemberCheck = (value) => Number.isSafeInteger(value) && (value as number) >= 0;
export const isTexts: MemberCheck = (value) => Array.isArray(value) && value.every(isText);
export const isObject: MemberCheck = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

export function orNull(isRight: MemberCheck): MemberCheck {
  return (value) => value === null || isRight(value);
}
export function oneOf(values: readonly string[]): MemberCheck {
  return (value) => values.includes(value as string);
}
export function listOf(isRight: MemberCheck): MemberCheck {
  return (value) => Array.isArray(value) && value.every(isRight);
}
