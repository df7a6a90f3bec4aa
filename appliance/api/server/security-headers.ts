// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance } from 'fastify';
import { ApplianceError } from '../../core/errors.ts';
import { isLoopback } from '../loopback.ts';

const YEAR_SECONDS: number = 365 * 24 * 3600;

/** Nothing from elsewhere, nothing inline, in no frame. Answers allow no other origin: there is no CORS. */
export async function addSecurityHeaders(app: FastifyInstance, transport: 'http' | 'https'): Promise<void> {
  const { default: helmet } = await import('@fastify/helmet');
  await app.register(helmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'"],
        imgSrc: ["'self'", 'data:'],
        fontSrc: ["'self'"],
        connectSrc: ["'self'"],
        baseUri: ["'none'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
      },
    },
    crossOriginEmbedderPolicy: true,
    frameguard: { action: 'deny' },
    referrerPolicy: { policy: 'no-referrer' },
    strictTransportSecurity: transport === 'https' ? { maxAge: YEAR_SECONDS, includeSubDomains: false } : false,
  });
}

/** A page of another site whose name was made to lead here is told apart by the name that it asks for (DNS rebinding). */
export function refuseForeignHosts(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ headers }) => {
    const host = (headers.host ?? '').replace(/:\d+$/, '');
    if (isLoopback(host)) return;
    throw new ApplianceError('FORBIDDEN', 'this address answers to the names of this machine only', {
      hint: 'Use localhost, 127.0.0.1 or [::1].',
    });
  });
}
