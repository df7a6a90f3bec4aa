// SPDX-License-Identifier: Apache-2.0
import type { CallOptions } from './call-channel.ts';
import { CHECKPOINT_DELETE, CHECKPOINT_XML } from './constants.ts';
import type { CheckpointIdentity, OperationArgs, OperationName, OperationResult } from './protocol.ts';

/** What `Domain` and `Checkpoint` need of a connection. */
export interface Caller {
  call<K extends OperationName>(
    operation: K,
    args: OperationArgs<K>,
    options?: CallOptions,
  ): Promise<OperationResult<K>>;
}

/** A checkpoint of a domain: a name; libvirt is asked anew by each call. All throw CHECKPOINT_NOT_FOUND. */
export class Checkpoint {
  readonly domainUuid: string;
  readonly name: string;
  /** Name of the checkpoint before it, null for the oldest. */
  readonly parent: string | null;
  readonly #caller: Caller;

  constructor(caller: Caller, domainUuid: string, identity: CheckpointIdentity) {
    this.#caller = caller;
    this.domainUuid = domainUuid;
    this.name = identity.name;
    this.parent = identity.parent;
  }

  /**
   * The definition, with the domain's unless `withDomain` is false. It is what `Domain.redefineCheckpoint` takes. With
   * `withSize`, each disk has the estimated bytes changed since (running domains only).
   */
  async xml(options: { readonly withDomain?: boolean; readonly withSize?: boolean } = {}): Promise<string> {
    const flags =
      (options.withDomain === false ? CHECKPOINT_XML.noDomain : 0) |
      (options.withSize === true ? CHECKPOINT_XML.size : 0);
    return await this.#caller.call('checkpointXml', { uuid: this.domainUuid, name: this.name, flags });
  }

  /**
   * Deletes the checkpoint and merges its bitmap into the one before it. With `metadataOnly` libvirt forgets it and the
   * bitmap stays in the image.
   */
  async delete(options: CallOptions & { readonly metadataOnly?: boolean } = {}): Promise<void> {
    const flags = options.metadataOnly === true ? CHECKPOINT_DELETE.metadataOnly : 0;
    await this.#caller.call('deleteCheckpoint', { uuid: this.domainUuid, name: this.name, flags }, options);
  }
}
