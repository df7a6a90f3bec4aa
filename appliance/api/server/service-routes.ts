// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { API_ROOT } from '../operation-routes.ts';
import { programVersion } from '../program-version.ts';
import type { ServiceHealth } from '../service-health.ts';
import type { ApiContext } from './api-context.ts';

/** What the service is, and what it works on. */
export function healthOf({ host, activity, stateDirectory, startedAt }: ApiContext): ServiceHealth {
  return {
    pid: process.pid,
    version: programVersion(),
    state: stateDirectory,
    phase: activity.isStopping ? 'stopping' : 'serving',
    startedAt,
    running: [...host.runService.live().map((run) => run.request.operation), ...activity.names()],
  };
}

/** Health, for whoever asks; what the service is, for those who may know. */
export function addServiceRoutes(app: FastifyInstance, context: ApiContext): void {
  app.get('/health/live', { config: { needs: 'public' } }, () => ({ status: 'live' }));
  app.get('/health/ready', { config: { needs: 'public' } }, (request, reply) => ready(context, request, reply));
  app.get(`${API_ROOT}/service`, { config: { needs: 'viewer' } }, () => healthOf(context));
}

/** For the unix socket only: who may signal the process may ask it to end. */
export function addStopRoute(app: FastifyInstance, { logger, onStop }: ApiContext): void {
  app.post(`${API_ROOT}/service/stop`, { config: { needs: 'admin' } }, (_request, reply) => {
    logger.info('a client asks the service to end');
    onStop();
    return reply.code(202).send({ pid: process.pid });
  });
}

async function ready(context: ApiContext, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
  const problems = context.activity.isStopping ? ['the service is stopping'] : await context.host.problems();
  const isReady = problems.length === 0;
  const status = { status: isReady ? 'ready' : 'not ready' };
  // Reasons name paths: they are for those who may know how the appliance is set up.
  const isTold = request.principal !== undefined && request.principal.role !== 'restorer';
  return reply.code(isReady ? 200 : 503).send(isTold ? { ...status, problems } : status);
}
