// SPDX-License-Identifier: Apache-2.0
import { API_ROOT, OPERATION_ROUTES } from '../operation-routes.ts';
import type { OperationName } from '../operations.ts';
import type { EndpointRequest } from './endpoint.ts';

/** The request for an operation: its parameters in path, query and body, as the table says. */
export function operationRequest(
  name: OperationName,
  params: Readonly<Record<string, unknown>>,
): Pick<EndpointRequest, 'method' | 'path' | 'body'> {
  const [method = '', template = ''] = OPERATION_ROUTES[name].http.split(' ');
  const rest: Record<string, unknown> = { ...params };
  const path = template.replace(/:([A-Za-z]+)/g, (_, member: string) => {
    const value = rest[member];
    delete rest[member];
    return encodeURIComponent(textOf(value));
  });
  if (method !== 'GET' && method !== 'DELETE') return { method, path: `${API_ROOT}${path}`, body: rest };
  const query = new URLSearchParams();
  for (const [member, value] of Object.entries(rest)) {
    for (const one of Array.isArray(value) ? (value as unknown[]) : [value]) {
      if (one !== undefined) query.append(member, textOf(one));
    }
  }
  return { method, path: withQuery(`${API_ROOT}${path}`, query) };
}

export function withQuery(path: string, query: URLSearchParams): string {
  const text = query.toString();
  if (text === '') return path;
  return `${path}${path.includes('?') ? '&' : '?'}${text}`;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
