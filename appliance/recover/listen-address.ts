// SPDX-License-Identifier: Apache-2.0
import { isIPv6 } from 'node:net';
import { ApplianceError } from '../core/errors.ts';
import type { ListenAddress } from '../nbd/server/listen-socket.ts';

const SHAPE = /^(?:\[([^\]]+)\]|([^:[\]\s]+)):(\d{1,5})$/;
const MAX_PORT = 65_535;

/** `HOST:PORT`, IPv6 hosts in brackets, port 0 for any free one. @throws ApplianceError BAD_ARGUMENT */
export function parseListenAddress(text: string): ListenAddress {
  const match = SHAPE.exec(text);
  const [, address, name, port] = match ?? [];
  const host = address ?? name;
  if (host === undefined || Number(port) > MAX_PORT || (address !== undefined && !isIPv6(address))) {
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is not HOST:PORT`, {
      hint: 'For example 127.0.0.1:10809 or [::1]:10809; port 0 takes any free one.',
    });
  }
  return { kind: 'tcp', host, port: Number(port) };
}
