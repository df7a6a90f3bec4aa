// SPDX-License-Identifier: Apache-2.0
import { isSealedSecret, type SealedSecret, type SecretPlace } from './secret-box.ts';

/** The same document with each sealed secret in it replaced; its field is the dotted path of the member that holds it. */
export function mapSecrets<T>(
  value: T,
  document: Pick<SecretPlace, 'collection' | 'id'>,
  change: (place: SecretPlace, secret: SealedSecret) => unknown,
): T {
  const visit = (member: unknown, path: readonly string[]): unknown => {
    if (isSealedSecret(member)) return change({ ...document, field: path.join('.') }, member);
    if (Array.isArray(member)) return member.map((item, index) => visit(item, [...path, String(index)]));
    if (typeof member !== 'object' || member === null) return member;
    return Object.fromEntries(Object.entries(member).map(([name, item]) => [name, visit(item, [...path, name])]));
  };
  return visit(value, []) as T;
}
