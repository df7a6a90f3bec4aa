// SPDX-License-Identifier: Apache-2.0

import { createHash } from 'node:crypto';
import { zstdCompressSync } from 'node:zlib';
import { type ContentKey, keyAt, ZERO_KEY } from '../appliance/core/content-id.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { FRAME_HEADER_BYTES, MAP_LEVELS, NODE_FANOUT, PACK_ENTRY_BYTES } from '../appliance/repository/format.ts';
import { MapEditor } from '../appliance/volume/map-editor.ts';
import { Seeded } from './statistics.ts';

/*
 * How many ids a node of the map should hold: nodes and bytes that a full backup and incrementals of several patterns
 * store, for fan-outs from 32 to 512. A model counts them; for 64 the real editor must count the same.
 *
 *   sh scripts/run bench/map-fanout.ts
 */

const FANOUTS = [32, 64, 128, 256, 512] as const;
const CHUNK_BYTES: number = 64 * 1024;
const NODE_HEADER_BYTES = 16;
const ID_BYTES = 32;
const GIB: number = 1024 ** 3;
/** Chunks that every fan-out must be able to map: 4 PiB at 64 KiB, what 64 does in six levels. */
const MAXIMUM_CHUNKS: number = 64 ** 6;

/** Nodes that a run stores, and their bytes: ids of non-zero children, a header, the frame, the footer's entry. */
interface Cost {
  readonly nodes: number;
  readonly bytes: number;
}

interface Pattern {
  readonly name: string;
  /** Changed chunks of a full disk, ascending. */
  readonly changed: (chunks: number) => number[];
}

const PATTERNS: readonly Pattern[] = [
  { name: 'one chunk', changed: (chunks) => [Math.floor(chunks / 3)] },
  { name: '64 MiB in one piece', changed: (chunks) => range(Math.floor(chunks / 3), 1024) },
  { name: '64 MiB in 64 pieces', changed: (chunks) => pieces(chunks, { count: 64, length: 16 }) },
  { name: '64 MiB scattered', changed: (chunks) => pieces(chunks, { count: 1024, length: 1 }) },
  { name: '1 GiB scattered', changed: (chunks) => pieces(chunks, { count: 16_384, length: 1 }) },
];

function range(first: number, length: number): number[] {
  return Array.from({ length }, (_, n) => first + n);
}

/** Pieces at random places, which may overlap. */
function pieces(chunks: number, { count, length }: { readonly count: number; readonly length: number }): number[] {
  const random = new Seeded(count);
  const found = new Set<number>();
  for (let n = 0; n < count; n++) {
    const first = random.below(chunks - length);
    for (let chunk = first; chunk < first + length; chunk++) found.add(chunk);
  }
  return [...found].toSorted((a, b) => a - b);
}

function levelsOf(fanout: number): number {
  return Math.ceil(Math.log2(MAXIMUM_CHUNKS) / Math.log2(fanout) - 1e-9);
}

/** What the nodes above the changed chunks of a disk cost that is full of data. */
function modelCost(fanout: number, chunks: number, changed: readonly number[]): Cost {
  let nodes = 0;
  let bytes = 0;
  let numbers: readonly number[] = changed;
  let width = chunks;
  for (let level = 0; level < levelsOf(fanout); level++) {
    const above = [...new Set(numbers.map((number) => Math.floor(number / fanout)))];
    for (const number of above) {
      const children = Math.min(fanout, width - number * fanout);
      bytes += FRAME_HEADER_BYTES + PACK_ENTRY_BYTES + NODE_HEADER_BYTES + children * ID_BYTES;
    }
    nodes += above.length;
    numbers = above;
    width = Math.ceil(width / fanout);
  }
  return { nodes, bytes };
}

/** The same by the editor of the appliance, with nodes kept in memory and compressed as they would be. */
class RealMap {
  readonly #nodes = new Map<ContentKey, Buffer>();
  root: ContentKey = ZERO_KEY;

  async edit(changed: readonly number[], generation: number): Promise<Cost> {
    let nodes = 0;
    let bytes = 0;
    const editor = new MapEditor(
      this.root,
      {
        node: (key) => {
          const node = this.#nodes.get(key);
          if (node === undefined) throw new ApplianceError('CHUNK_MISSING', 'a node of the model is missing');
          return Promise.resolve(node);
        },
      },
      {
        putNode: (node) => {
          const id = createHash('sha256').update(node).digest();
          this.#nodes.set(keyAt(id), Buffer.from(node));
          nodes += 1;
          bytes += FRAME_HEADER_BYTES + PACK_ENTRY_BYTES + Math.min(node.length, zstdCompressSync(node).length);
          return Promise.resolve(id);
        },
      },
    );
    const id = Buffer.alloc(ID_BYTES);
    for (const chunk of changed) {
      createHash('sha256').update(`${generation}/${chunk}`).digest().copy(id);
      await editor.set(chunk, id);
    }
    this.root = (await editor.finish()).root;
    return { nodes, bytes };
  }
}

function print(title: string, rows: readonly (readonly string[])[]): void {
  process.stdout.write(`\n${title}\n\n| | ${FANOUTS.join(' | ')} |\n| --- |${' --- |'.repeat(FANOUTS.length)}\n`);
  for (const row of rows) process.stdout.write(`| ${row.join(' | ')} |\n`);
}

function text({ nodes, bytes }: Cost): string {
  const size = bytes < 2 ** 20 ? `${(bytes / 1024).toFixed(0)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  return `${size} in ${nodes}`;
}

for (const sizeBytes of [8 * GIB, 1024 * GIB]) {
  const chunks = sizeBytes / CHUNK_BYTES;
  const all = range(0, chunks);
  const rows = [
    ['full backup', ...FANOUTS.map((fanout) => text(modelCost(fanout, chunks, all)))],
    ...PATTERNS.map(({ name, changed }) => {
      const list = changed(chunks);
      return [name, ...FANOUTS.map((fanout) => text(modelCost(fanout, chunks, list)))];
    }),
  ];
  print(`Nodes of a disk of ${sizeBytes / GIB} GiB, bytes stored by fan-out:`, rows);
}
print('To find one chunk with nothing cached:', [
  ['nodes read', ...FANOUTS.map((fanout) => String(levelsOf(fanout)))],
  [
    'KiB read and decoded',
    ...FANOUTS.map((fanout) => ((levelsOf(fanout) * (NODE_HEADER_BYTES + fanout * ID_BYTES)) / 1024).toFixed(0)),
  ],
]);

process.stdout.write('\nThe editor of the appliance, fan-out 64, disk of 8 GiB (model in brackets):\n\n');
const chunks = (8 * GIB) / CHUNK_BYTES;
const map = new RealMap();
let generation = 0;
const runs = [{ name: 'full backup', changed: (all: number): number[] => range(0, all) }, ...PATTERNS];
for (const { name, changed } of runs) {
  const list = changed(chunks);
  const real = await map.edit(list, generation++);
  const model = modelCost(NODE_FANOUT, chunks, list);
  process.stdout.write(`* ${name}: ${text(real)} (${text(model)})\n`);
  if (real.nodes !== model.nodes || levelsOf(NODE_FANOUT) !== MAP_LEVELS) {
    throw new ApplianceError('INTERNAL', 'the model does not count as the editor does');
  }
}
