// SPDX-License-Identifier: Apache-2.0
import { Worker } from 'node:worker_threads';
import { ApplianceError } from '../../core/errors.ts';
import type { EventCallbacks, EventMessage } from './protocol.ts';
import { fromWireError } from './wire-error.ts';

/** An event of one connection, as the event worker posts it. */
export type ConnectionEvent = Extract<EventMessage, { readonly kind: 'event' }>;

type Receiver = (event: ConnectionEvent) => void;

export interface EventLoop {
  readonly callbacks: EventCallbacks;
  /** Starts delivering events of `connectionId`; returns what ends it. */
  subscribe(connectionId: number, receiver: Receiver): () => void;
}

let running: Promise<EventLoop> | undefined;

/**
 * The process's libvirt event loop, started at the first use and kept: libvirt has one event implementation per process,
 * and it must be there before the first connection opens. Its thread does not keep the process alive. Throws
 * LIBVIRT_UNAVAILABLE.
 */
export async function startEventLoop(): Promise<EventLoop> {
  running ??= startWorker();
  try {
    return await running;
  } catch (error) {
    running = undefined;
    throw error;
  }
}

async function startWorker(): Promise<EventLoop> {
  // libvirt would print on standard error what arrives here as an error anyway.
  process.env['LIBVIRT_LOG_OUTPUTS'] ??= '4:file:/dev/null';
  const receivers = new Map<number, Receiver>();
  const worker = new Worker(new URL('./event-worker.ts', import.meta.url), { name: 'libvirt-events' });
  const ready = Promise.withResolvers<EventCallbacks>();

  const fail = (error: Error): void => {
    ready.reject(error);
    running = undefined;
    for (const [connectionId, receiver] of receivers) {
      receiver({ kind: 'event', connectionId, name: 'closed', event: { reason: `event loop: ${error.message}` } });
    }
    receivers.clear();
  };
  worker.on('message', (message: EventMessage) => {
    switch (message.kind) {
      case 'ready':
        ready.resolve(message.callbacks);
        return;
      case 'failed':
        fail(fromWireError(message.error));
        return;
      case 'event':
        receivers.get(message.connectionId)?.(message);
        return;
    }
  });
  worker.on('error', fail);
  worker.on('exit', (code) => {
    fail(new ApplianceError('INTERNAL', `the libvirt event thread ended with ${code}`));
  });

  const callbacks = await ready.promise;
  worker.unref();
  return {
    callbacks,
    subscribe: (connectionId, receiver) => {
      receivers.set(connectionId, receiver);
      return () => receivers.delete(connectionId);
    },
  };
}
