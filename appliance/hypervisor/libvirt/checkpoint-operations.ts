// SPDX-License-Identifier: Apache-2.0
import type { Handle } from './library.ts';
import type { CheckpointIdentity } from './protocol.ts';
import type { Handlers, Session } from './session.ts';

type CheckpointOperation =
  | 'listCheckpoints'
  | 'lookupCheckpoint'
  | 'checkpointXml'
  | 'createCheckpoint'
  | 'deleteCheckpoint';

/** Checkpoints of one domain. Each blocks; libvirt-domain-checkpoint.h. */
export const checkpointOperations: Handlers<CheckpointOperation> = {
  listCheckpoints: (session, { uuid, flags }) =>
    session.withDomain(uuid, (domain) => {
      const list = Buffer.alloc(8);
      const count = session.expectCount(session.api.virDomainListAllCheckpoints(domain, list, flags));
      return session.takeHandles(list, count).map((checkpoint) => takeCheckpoint(session, checkpoint));
    }),

  lookupCheckpoint: (session, { uuid, name }) =>
    withCheckpoint(session, { uuid, name }, (checkpoint) => checkpointIdentity(session, checkpoint)),

  checkpointXml: (session, { uuid, name, flags }) =>
    withCheckpoint(session, { uuid, name }, (checkpoint) =>
      session.expectString(session.api.virDomainCheckpointGetXMLDesc(checkpoint, flags)),
    ),

  createCheckpoint: (session, { uuid, xml, flags }) =>
    session.withDomain(uuid, (domain) =>
      takeCheckpoint(session, session.expectHandle(session.api.virDomainCheckpointCreateXML(domain, xml, flags))),
    ),

  deleteCheckpoint: (session, { uuid, name, flags }) =>
    withCheckpoint(session, { uuid, name }, (checkpoint) => {
      session.expectCount(session.api.virDomainCheckpointDelete(checkpoint, flags));
    }),
};

function withCheckpoint<T>(
  session: Session,
  { uuid, name }: { readonly uuid: string; readonly name: string },
  use: (checkpoint: Handle) => T,
): T {
  return session.withDomain(uuid, (domain) => {
    const checkpoint = session.expectHandle(session.api.virDomainCheckpointLookupByName(domain, name, 0));
    try {
      return use(checkpoint);
    } finally {
      session.api.virDomainCheckpointFree(checkpoint);
    }
  });
}

function takeCheckpoint(session: Session, checkpoint: Handle): CheckpointIdentity {
  try {
    return checkpointIdentity(session, checkpoint);
  } finally {
    session.api.virDomainCheckpointFree(checkpoint);
  }
}

function checkpointIdentity({ api }: Session, checkpoint: Handle): CheckpointIdentity {
  const parent = api.virDomainCheckpointGetParent(checkpoint, 0);
  const parentName = parent === 0 ? null : api.virDomainCheckpointGetName(parent);
  if (parent !== 0) api.virDomainCheckpointFree(parent);
  return { name: api.virDomainCheckpointGetName(checkpoint) ?? '', parent: parentName };
}
