// SPDX-License-Identifier: Apache-2.0
import type { FastifyRequest } from 'fastify';
import { ApplianceError } from '../../../core/errors.ts';
import { isSecure } from './cookies.ts';

/** Browsers say from which page a request comes. Other clients do not, and have no cookies of anybody. @throws FORBIDDEN */
export function checkOrigin(request: FastifyRequest): void {
  const { origin, host } = request.headers;
  const own = `${isSecure(request) ? 'https' : 'http'}://${host ?? ''}`;
  const site = request.headers['sec-fetch-site'];
  const isOwn =
    (origin === undefined || origin === own) && (site === undefined || site === 'same-origin' || site === 'none');
  if (!isOwn) throw new ApplianceError('FORBIDDEN', 'the request comes from a page of another site');
}
