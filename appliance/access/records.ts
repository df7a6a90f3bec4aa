// SPDX-License-Identifier: Apache-2.0

/** A document with the number of its version. */
export interface Entry<T> {
  readonly id: string;
  readonly revision: number;
  readonly value: T;
}

/** What access asks of a collection of documents (`config/collection.ts`): reading at once, writing durably. */
export interface Records<T> {
  get(id: string): Entry<T> | undefined;
  list(): readonly Entry<T>[];
  /** @throws CONFLICT when the id is taken */
  create(id: string, value: T): Promise<Entry<T>>;
  /** @throws CONFLICT when the revision is not the expected one; NOT_FOUND where one was expected */
  put(id: string, value: T, options?: { readonly expect?: number }): Promise<Entry<T>>;
  /** @throws NOT_FOUND, CONFLICT */
  delete(id: string, options?: { readonly expect?: number }): Promise<unknown>;
}

/** Encrypts short secrets at rest (`config/secret-box.ts`). What was sealed for one place cannot be opened for another. */
export interface Sealer {
  seal(text: string, place: string): string;
  /** @throws ApplianceError when it was changed, or sealed for another place or under another key */
  open(sealed: string, place: string): string;
}
