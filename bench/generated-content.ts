// SPDX-License-Identifier: Apache-2.0
import { createCipheriv } from 'node:crypto';
import { Seeded } from './statistics.ts';

/*
 * Content that is made, from a seed: what stands in for data that a benchmark cannot find on every machine. It is as
 * compressible as its model (a service's log; the pages of a database), and no two 64 KiB of it are the same.
 */

const WORDS: readonly string[] = (
  'accept account answer archive backend balance batch block buffer bucket cache cancel chunk client cluster commit ' +
  'connect cursor customer delta deliver device disk drain endpoint entry error export extent fetch flush frame gateway ' +
  'guest handler header health index ingest invoice journal kernel ledger lease limit listen lock machine mailbox map ' +
  'merge metric mirror module monitor network node notify object offset order owner packet page parse payload payment ' +
  'policy pool proxy publish query queue quota reader rebuild record region reject replica report request resolve retry ' +
  'route schedule schema segment sensor server service session shard signal snapshot socket source status storage stream ' +
  'sync table target task thread ticket timeout token topic trace transfer tunnel update upload user vector verify volume'
).split(' ');
const LEVELS: readonly string[] = ['INFO', 'INFO', 'INFO', 'DEBUG', 'DEBUG', 'WARN', 'ERROR'];
const PAGE_BYTES = 16 * 1024;

/** Lines as a service writes them. */
export function logText(seed: number, lengthBytes: number): Buffer {
  const random = new Seeded(seed);
  const text = Buffer.alloc(lengthBytes);
  let at = 0;
  let timeMs = Date.UTC(2026, 0, 1) + random.below(2 ** 34);
  while (at < lengthBytes) {
    timeMs += random.below(900);
    const line =
      `${new Date(timeMs).toISOString()} ${pick(random, LEVELS)} [${pick(random, WORDS)}-${random.below(64)}] ` +
      `${pick(random, WORDS)} ${pick(random, WORDS)} ${pick(random, WORDS)} id=${hex(random)}${hex(random)} ` +
      `peer=10.${random.below(4)}.${random.below(256)}.${random.below(256)}:${1024 + random.below(60_000)} ` +
      `${pick(random, WORDS)}=${random.below(1_000_000)} took=${random.below(40_000) / 1000}ms\n`;
    at += text.write(line, at, 'latin1');
  }
  return text;
}

/** Pages as a database writes them: a header, rows with keys in order, text and binary columns, room left at the end. */
export function databasePages(seed: number, lengthBytes: number): Buffer {
  const random = new Seeded(seed);
  const pages = Buffer.alloc(lengthBytes);
  let key = random.next();
  for (let start = 0; start + PAGE_BYTES <= lengthBytes; start += PAGE_BYTES) {
    pages.writeUInt32BE(0xdb01c0de, start);
    pages.writeUInt32LE(start / PAGE_BYTES, start + 4);
    pages.writeUInt32LE(random.next(), start + 8);
    const end = start + Math.floor(PAGE_BYTES * (0.6 + random.below(38) / 100));
    let at = start + 64;
    while (at + 160 < end) {
      key = (key + 1 + random.below(5)) % 2 ** 32;
      at = pages.writeUInt32LE(key, at);
      at = pages.writeDoubleLE(random.below(10_000_000) / 100, at);
      at = pages.writeUInt32LE(1_700_000_000 + random.below(60_000_000), at);
      for (let word = 0; word < 4; word++) at = pages.writeUInt32LE(random.next(), at);
      at += pages.write(`${pick(random, WORDS)} ${pick(random, WORDS)} ${pick(random, WORDS)}`, at, 'latin1');
      at += pages.write(`${pick(random, WORDS)}.${pick(random, WORDS)}@example.org`, at, 'latin1');
      at += 1 + random.below(12);
    }
  }
  return pages;
}

/** Bytes that nothing compresses: AES-256-CTR over zeroes, under a key made from the seed. */
export function randomBytesOf(seed: number, lengthBytes: number): Buffer {
  const key = Buffer.alloc(32);
  key.writeUInt32BE(seed, 0);
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(lengthBytes));
}

function pick(random: Seeded, from: readonly string[]): string {
  return from[random.below(from.length)] ?? '';
}

function hex(random: Seeded): string {
  return random.next().toString(16).padStart(8, '0');
}
