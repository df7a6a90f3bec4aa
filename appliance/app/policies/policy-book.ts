// SPDX-License-Identifier: Apache-2.0
import { Ajv } from 'ajv';
import { policyDocument } from '../../api/schemas/policies.ts';
import type { Collection, CollectionDefinition, Entry } from '../../config/collection.ts';
import { ApplianceError } from '../../core/errors.ts';
import { MAX_POLICIES, type Policy, type PolicyDocument, readPolicy } from '../../protect/policy/policy.ts';

const isDocument = new Ajv({ strict: false, validateSchema: false }).compile<PolicyDocument>(policyDocument);

/** The policies of an appliance, by name. */
export const POLICIES: CollectionDefinition<PolicyDocument> = {
  name: 'policies',
  maxRecords: MAX_POLICIES,
  check: checkDocument,
};

/** The policies, read and understood once for each change. */
export class PolicyBook {
  readonly collection: Collection<PolicyDocument>;
  readonly #read = new Map<string, { readonly revision: number; readonly policy: Policy }>();
  #all: { readonly revision: number; readonly policies: readonly Policy[] } | undefined;

  constructor(collection: Collection<PolicyDocument>) {
    this.collection = collection;
  }

  /** By name; the same array until something changes. */
  get all(): readonly Policy[] {
    const { revision } = this.collection;
    if (this.#all?.revision !== revision) {
      this.#all = { revision, policies: this.collection.list().map((entry) => this.#policy(entry)) };
    }
    return this.#all.policies;
  }

  /** @throws ApplianceError NOT_FOUND */
  get(name: string): Policy {
    return this.#policy(this.entry(name));
  }

  /** @throws ApplianceError NOT_FOUND */
  entry(name: string): Entry<PolicyDocument> {
    const found = this.collection.find(name);
    if (found !== undefined) return found;
    throw new ApplianceError('NOT_FOUND', `there is no policy ${JSON.stringify(name)}`, {
      hint: '`understudy policy list` shows those that there are.',
    });
  }

  #policy({ id, revision, value }: Entry<PolicyDocument>): Policy {
    const known = this.#read.get(id);
    if (known?.revision === revision) return known.policy;
    const policy = readPolicy(value);
    this.#read.set(id, { revision, policy });
    return policy;
  }
}

/** @throws ApplianceError BAD_ARGUMENT */
function checkDocument(value: unknown, id: string): PolicyDocument {
  if (!isDocument(value) || value.name !== id) {
    const [first] = isDocument.errors ?? [];
    throw new ApplianceError(
      'BAD_ARGUMENT',
      `the policy ${id}: ${first?.instancePath ?? ''} ${first?.message ?? 'has another name'}`,
    );
  }
  readPolicy(value);
  return value;
}
