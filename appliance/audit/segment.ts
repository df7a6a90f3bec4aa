// SPDX-License-Identifier: Apache-2.0
import { canonicalJson } from '../core/canonical-json.ts';
import { ApplianceError } from '../core/errors.ts';
import { type AuditEntry, encodeEntry, hashEntry } from './entry.ts';

/** The first line of a segment: where it goes on from. */
export interface SegmentHeader {
  readonly format: 'understudy-audit';
  readonly version: 1;
  /** From 1. */
  readonly segment: number;
  /** Of its first entry. */
  readonly sequence: number;
  /** The hash of the entry before that. */
  readonly previous: string;
}

export interface HashedEntry {
  readonly entry: AuditEntry;
  readonly hash: string;
}

/** The first line that is not what was written, counted from 1. */
export interface BadLine {
  readonly line: number;
  readonly sequence: number;
  readonly reason: string;
  /** Where it begins. */
  readonly offset: number;
}

/** What a segment holds up to its end, or up to the first bad line. */
export interface SegmentContent {
  readonly header: SegmentHeader;
  readonly entries: readonly HashedEntry[];
  readonly bad: BadLine | undefined;
  /** Hash after the last good entry. */
  readonly hash: string;
}

export const AUDIT_FORMAT = 'understudy-audit';
export const AUDIT_VERSION = 1;

const LINE_FEED = 0x0a;

export function encodeHeader(header: SegmentHeader): string {
  return `${canonicalJson(header)}\n`;
}

/** Undefined when not even the first line is there. @throws ApplianceError AUDIT_DAMAGED, CONFIG_FORMAT */
export function decodeSegment(bytes: Buffer, name: string): SegmentContent | undefined {
  const headerEnd = bytes.indexOf(LINE_FEED);
  if (headerEnd < 0) return undefined;
  const header = decodeHeader(bytes.subarray(0, headerEnd), name);
  const entries: HashedEntry[] = [];
  let hash = header.previous;
  let offset = headerEnd + 1;
  while (offset < bytes.length) {
    const end = bytes.indexOf(LINE_FEED, offset);
    const sequence = header.sequence + entries.length;
    const fault = { line: entries.length + 2, sequence, offset };
    if (end < 0) return { header, entries, hash, bad: { ...fault, reason: 'it is not complete' } };
    const found = decodeLine(bytes.toString('utf8', offset, end + 1), hash, sequence);
    if (typeof found === 'string') return { header, entries, hash, bad: { ...fault, reason: found } };
    entries.push(found);
    hash = found.hash;
    offset = end + 1;
  }
  return { header, entries, hash, bad: undefined };
}

/** The entry of a line, or what is wrong with it. */
function decodeLine(line: string, previous: string, sequence: number): HashedEntry | string {
  let parsed: unknown;
  try {
    parsed = JSON.parse(line);
  } catch {
    return 'it is not JSON';
  }
  if (typeof parsed !== 'object' || parsed === null || !('hash' in parsed)) return 'it is no entry';
  const { hash, ...rest } = parsed;
  const entry = rest as unknown as AuditEntry;
  if (entry.sequence !== sequence) return `it has the number ${String(entry.sequence)} in place of ${sequence}`;
  if (typeof hash !== 'string' || hash !== hashEntry(previous, entry))
    return 'its hash does not follow from what is before it';
  if (encodeEntry(entry, hash) !== line) return 'it is not written as this program writes it';
  return { entry, hash };
}

function decodeHeader(line: Buffer, name: string): SegmentHeader {
  let parsed: unknown;
  try {
    parsed = JSON.parse(line.toString('utf8'));
  } catch (cause) {
    throw damaged(name, 'has a first line that is not JSON', cause);
  }
  const header = parsed as SegmentHeader;
  if (typeof parsed !== 'object' || parsed === null || header.format !== AUDIT_FORMAT)
    throw damaged(name, 'is no segment');
  if (header.version !== AUDIT_VERSION) {
    throw new ApplianceError('CONFIG_FORMAT', `${name} has format version ${String(header.version)}`);
  }
  const isWhole =
    Number.isSafeInteger(header.segment) &&
    Number.isSafeInteger(header.sequence) &&
    /^[0-9a-f]{64}$/.test(header.previous) &&
    encodeHeader(header) === `${line.toString('utf8')}\n`;
  if (!isWhole) throw damaged(name, 'has a damaged first line');
  return header;
}

export function damaged(name: string, what: string, cause?: unknown): ApplianceError {
  return new ApplianceError('AUDIT_DAMAGED', `${name} ${what}`, { cause, details: { file: name } });
}
