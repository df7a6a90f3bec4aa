// SPDX-License-Identifier: Apache-2.0
import { isIPv6 } from 'node:net';
import { ApplianceError } from '../core/errors.ts';
import { DEFAULT_PORT, MAX_STRING_BYTES } from './protocol.ts';

/**
 * How a connection treats TLS. `require`: no byte of data without it. `prefer`: STARTTLS when key material is at hand
 * (here or in the client's options), plain when the server has no TLS or no material was given. `never`: plain.
 */
export interface NbdTlsPolicy {
  readonly mode: 'never' | 'prefer' | 'require';
  /** Default: `psk` when a pre-shared key is at hand, else `x509`. */
  readonly type?: 'x509' | 'psk';
  /** Name to look for in the server's certificate; default: the host of the target, `localhost` for unix sockets. */
  readonly hostname?: string;
  /** Directory with `ca-cert.pem` and optionally `client-cert.pem`, `client-key.pem`. */
  readonly certificatesDir?: string;
  /** File of `identity:hex key` lines, as `psktool` writes it. */
  readonly pskFile?: string;
  readonly pskIdentity?: string;
}

interface NbdTargetParts {
  /** At most 4096 bytes of UTF-8 without NUL; the default export is the empty name. */
  readonly exportName: string;
  /** Default: `prefer`. */
  readonly tls?: NbdTlsPolicy;
}

/** A server listening on a unix socket; a path that starts with NUL lies in Linux's abstract namespace. */
export interface NbdUnixTarget extends NbdTargetParts {
  readonly kind: 'unix';
  readonly path: string;
}

/** A server listening on TCP; `host` is a name or an address, IPv6 without brackets. */
export interface NbdTcpTarget extends NbdTargetParts {
  readonly kind: 'tcp';
  readonly host: string;
  readonly port: number;
}

export type NbdTarget = NbdUnixTarget | NbdTcpTarget;

const SHAPE = /^(nbds?)(\+[a-z]+)?:\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/i;
const PARAMETERS: ReadonlySet<string> = new Set([
  'socket',
  'tls-type',
  'tls-hostname',
  'tls-verify-peer',
  'tls-certificates',
  'tls-psk-file',
]);

/**
 * Reads `nbd://`, `nbds://`, `nbd+unix://` and `nbds+unix://` (NBD's doc/uri.md, and libnbd's `tls-certificates` and
 * `tls-psk-file`). The export name is the path without exactly one leading slash, percent-decoded. `x-` parameters are
 * ignored; others that are unknown, and those that would switch verification off, are refused.
 *
 * @throws NBD_BAD_URI
 */
export function parseNbdUri(text: string): NbdTarget {
  const match = SHAPE.exec(text);
  if (match === null) throw badUri(text, 'it does not have the form of an NBD URI');
  const [, scheme = '', transport, authority = '', path = '', query = ''] = match;
  if (transport !== undefined && transport.toLowerCase() !== '+unix') {
    throw badUri(text, `the transport ${transport.slice(1)} is not supported`);
  }
  const parameters = parseQuery(text, query);
  const { user, host, port } = parseAuthority(text, authority);
  const mode = scheme.toLowerCase() === 'nbds' ? 'require' : 'prefer';
  const parts = {
    exportName: checkExportName(text, decode(text, path.slice(1))),
    tls: parseTls(text, { mode, user, parameters }),
  };
  const socket = parameters.get('socket');
  if (transport === undefined) {
    if (socket !== undefined) throw badUri(text, 'socket= belongs to nbd+unix:// and nbds+unix://');
    return { kind: 'tcp', host: host === '' ? 'localhost' : host, port, ...parts };
  }
  if (host !== '') throw badUri(text, 'a unix URI has no host');
  if (socket === undefined || socket === '') throw badUri(text, 'a unix URI needs socket=');
  if (socket.indexOf('\0', 1) >= 0) throw badUri(text, 'socket= contains a NUL');
  return { kind: 'unix', path: socket, ...parts };
}

/** The URI of a target; `parseNbdUri` of it gives an equal target (with TLS mode `never` shown as `prefer`). */
export function formatNbdUri(target: NbdTarget): string {
  const tls = target.tls ?? { mode: 'prefer' };
  const scheme = `${tls.mode === 'require' ? 'nbds' : 'nbd'}${target.kind === 'unix' ? '+unix' : ''}`;
  const user = tls.pskIdentity === undefined ? '' : `${encodeURIComponent(tls.pskIdentity)}@`;
  const query: string[] = [];
  const add = (key: string, value: string | undefined): void => {
    if (value !== undefined) query.push(`${key}=${encodeURIComponent(value).replaceAll('%2F', '/')}`);
  };
  let authority = user;
  if (target.kind === 'tcp') {
    authority += isIPv6(target.host) ? `[${target.host}]` : encodeURIComponent(target.host);
    if (target.port !== DEFAULT_PORT) authority += `:${target.port}`;
  } else add('socket', target.path);
  add('tls-type', tls.type);
  add('tls-hostname', tls.hostname);
  add('tls-certificates', tls.certificatesDir);
  add('tls-psk-file', tls.pskFile);
  const path = encodeURIComponent(target.exportName).replaceAll('%2F', '/');
  return `${scheme}://${authority}/${path}${query.length === 0 ? '' : `?${query.join('&')}`}`;
}

function parseAuthority(text: string, authority: string): { user: string | undefined; host: string; port: number } {
  const at = authority.lastIndexOf('@');
  const user = at < 0 ? undefined : authority.slice(0, at);
  if (user !== undefined && /[:@]/.test(user)) throw badUri(text, 'the user part holds only a TLS-PSK identity');
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d*))?$/.exec(authority.slice(at + 1));
  if (match === null) throw badUri(text, 'host and port are malformed (IPv6 addresses stand in brackets)');
  const [, address, name = '', digits = ''] = match;
  if (address !== undefined && !isIPv6(address)) throw badUri(text, 'the address in brackets is not an IPv6 address');
  const port = digits === '' ? DEFAULT_PORT : Number(digits);
  if (port < 1 || port > 65_535) throw badUri(text, 'the port is not between 1 and 65535');
  const host = address ?? decode(text, name);
  if (host.includes('\0')) throw badUri(text, 'the host contains a NUL');
  return { user: user === undefined ? undefined : decode(text, user), host, port };
}

function parseQuery(text: string, query: string): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const part of query.split('&')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const key = decode(text, equals < 0 ? part : part.slice(0, equals));
    if (key.startsWith('x-')) continue;
    if (!PARAMETERS.has(key)) throw badUri(text, `the parameter ${key} is unknown`);
    if (parameters.has(key)) throw badUri(text, `the parameter ${key} is given twice`);
    parameters.set(key, equals < 0 ? '' : decode(text, part.slice(equals + 1)));
  }
  return parameters;
}

interface TlsParts {
  readonly mode: 'prefer' | 'require';
  readonly user: string | undefined;
  readonly parameters: ReadonlyMap<string, string>;
}

function parseTls(text: string, { mode, user, parameters }: TlsParts): NbdTlsPolicy {
  const type = parameters.get('tls-type');
  const verify = parameters.get('tls-verify-peer');
  if (type !== undefined && type !== 'x509' && type !== 'psk') {
    throw badUri(text, `tls-type=${type} is not supported: x509 and psk prove who the server is`);
  }
  if (verify !== undefined && verify !== '1') throw badUri(text, 'the server is always verified (tls-verify-peer=1)');
  const hostname = parameters.get('tls-hostname');
  const certificatesDir = parameters.get('tls-certificates');
  const pskFile = parameters.get('tls-psk-file');
  return {
    mode,
    ...(type === undefined ? {} : { type }),
    ...(hostname === undefined ? {} : { hostname }),
    ...(certificatesDir === undefined ? {} : { certificatesDir }),
    ...(pskFile === undefined ? {} : { pskFile }),
    ...(user === undefined ? {} : { pskIdentity: user }),
  };
}

function checkExportName(text: string, name: string): string {
  if (name.includes('\0')) throw badUri(text, 'the export name contains a NUL');
  if (Buffer.byteLength(name) > MAX_STRING_BYTES) {
    throw badUri(text, `the export name is longer than ${MAX_STRING_BYTES} bytes`);
  }
  return name;
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(part);
  } catch (cause) {
    throw badUri(text, `${part} is not percent-encoded UTF-8`, cause);
  }
}

function badUri(text: string, reason: string, cause?: unknown): ApplianceError {
  return new ApplianceError('NBD_BAD_URI', `${text}: ${reason}`, { cause, details: { uri: text } });
}
