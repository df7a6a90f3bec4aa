// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance } from 'fastify';
import { isAtLeast } from '../../access/principal.ts';
import { systemClock } from '../../core/clock.ts';
import { ApplianceError } from '../../core/errors.ts';
import type { ApplianceHost } from '../appliance-host.ts';
import { programVersion } from '../program-version.ts';
import type { ApiContext } from '../server/api-context.ts';
import { Metrics } from './metrics.ts';

/**
 * `GET /metrics`, for Prometheus and whatever reads its format: for those who may look, or for everybody where
 * `metrics.public` is set.
 */
export function addMetricsRoute(app: FastifyInstance, { host }: ApiContext): void {
  const shared = metricsOf(host);
  app.addHook('onClose', async () => {
    OPEN.delete(host);
    shared?.[Symbol.dispose]();
  });
  app.get('/metrics', { config: { needs: 'public' } }, async ({ principal }, reply) => {
    if (host.areMetricsPublic?.() !== true) {
      if (principal === undefined) throw new ApplianceError('UNAUTHENTICATED', 'metrics need a token or a session');
      if (!isAtLeast(principal.role, 'viewer')) {
        throw new ApplianceError('FORBIDDEN', `${principal.name} (${principal.role}) may not read metrics`);
      }
    }
    if (shared === undefined) throw new ApplianceError('NOT_SUPPORTED', 'this appliance has no metrics');
    return reply.type(shared.contentType).send(await shared.text());
  });
}

/** One for all listeners of a service. */
const OPEN = new WeakMap<ApplianceHost, Metrics>();

function metricsOf(host: ApplianceHost): Metrics | undefined {
  const { eventHub, runService } = host;
  const figures = host.figures?.bind(host);
  if (figures === undefined) return undefined;
  const version = programVersion();
  const metrics = OPEN.get(host) ?? new Metrics({ figures, eventHub, runService, version, clock: systemClock });
  OPEN.set(host, metrics);
  return metrics;
}
