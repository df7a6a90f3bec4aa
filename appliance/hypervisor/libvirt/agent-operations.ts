// SPDX-License-Identifier: Apache-2.0
import { readPointer, stringAt } from './library.ts';
import type { Handlers } from './session.ts';

type AgentOperation = 'setAgentTimeout' | 'fsFreeze' | 'fsThaw' | 'agentCommand' | 'monitorCommand';

/**
 * Calls that wait for the guest agent, and QEMU's monitor. libvirt's own default is to wait for the agent without end
 * (VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK), so each agent call sets its limit first. libvirt-domain.h, libvirt-qemu.h.
 */
export const agentOperations: Handlers<AgentOperation> = {
  setAgentTimeout: (session, { uuid, seconds }) =>
    session.withDomain(uuid, (domain) => {
      session.expectCount(session.api.virDomainAgentSetResponseTimeout(domain, seconds, 0));
    }),

  fsFreeze: (session, { uuid, timeoutSeconds }) =>
    session.withDomain(uuid, (domain) => {
      session.expectCount(session.api.virDomainAgentSetResponseTimeout(domain, timeoutSeconds, 0));
      return session.expectCount(session.api.virDomainFSFreeze(domain, 0, 0, 0));
    }),

  fsThaw: (session, { uuid, timeoutSeconds }) =>
    session.withDomain(uuid, (domain) => {
      session.expectCount(session.api.virDomainAgentSetResponseTimeout(domain, timeoutSeconds, 0));
      return session.expectCount(session.api.virDomainFSThaw(domain, 0, 0, 0));
    }),

  agentCommand: (session, { uuid, command, timeoutSeconds }) =>
    session.withDomain(uuid, (domain) =>
      session.expectString(session.api.virDomainQemuAgentCommand(domain, command, timeoutSeconds, 0)),
    ),

  monitorCommand: (session, { uuid, command }) =>
    session.withDomain(uuid, (domain) => {
      const result = Buffer.alloc(8);
      session.expectCount(session.api.virDomainQemuMonitorCommand(domain, command, result, 0));
      const pointer = readPointer(result);
      const text = stringAt(pointer);
      if (pointer !== 0) session.api.free(pointer);
      return session.expectString(text);
    }),
};
