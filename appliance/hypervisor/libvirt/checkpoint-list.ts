// SPDX-License-Identifier: Apache-2.0
import { hasCode } from '../../core/errors.ts';
import type { CallOptions } from './call-channel.ts';
import type { Caller } from './checkpoint.ts';
import { CHECKPOINT_LIST, VIR_ERR } from './constants.ts';
import type { CheckpointIdentity } from './protocol.ts';

/**
 * The checkpoints of a domain, oldest first. In the instant in which somebody deletes one of them, libvirt (seen: 9.0) lists one
 * without a name and refuses its own answer as an invalid argument (`name … must not be NULL`): it is asked once more.
 */
export async function listCheckpoints(
  caller: Caller,
  uuid: string,
  options?: CallOptions,
): Promise<readonly CheckpointIdentity[]> {
  const list = (): Promise<readonly CheckpointIdentity[]> =>
    caller.call('listCheckpoints', { uuid, flags: CHECKPOINT_LIST.topological }, options);
  try {
    return await list();
  } catch (error) {
    if (hasCode(error, 'LIBVIRT_FAILED') && error.details['libvirtCode'] === VIR_ERR.invalidArgument) return list();
    throw error;
  }
}
