// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { isBuiltin } from 'node:module';
import { suite } from '../support/suite.ts';
import { foldersBelow, importsOf, quoted, type SourceFile, tableBelow, typeScriptFiles } from './source-tree.ts';

/*
 * Enforces the layer table of docs/README.md, in which each folder names what it may import: other folders (after "types
 * of", for type imports only) and npm packages.
 */

interface Layer {
  readonly mayImport: ReadonlySet<string>;
  readonly mayImportTypesOf: ReadonlySet<string>;
  readonly packages: ReadonlySet<string>;
}

function readLayers(): Map<string, Layer> {
  const layers = new Map<string, Layer>();
  for (const [names, , allowed, packages] of tableBelow('docs/README.md', 'Layers')) {
    const [values = '', types = ''] = (allowed ?? '').split('types of');
    const layer: Layer = {
      mayImport: new Set(quoted(values)),
      mayImportTypesOf: new Set(quoted(types)),
      packages: new Set(quoted(packages ?? '')),
    };
    for (const name of quoted(names ?? '')) layers.set(name, layer);
  }
  return layers;
}

/** `appliance/nbd/client/client.ts` is in `nbd`; `appliance/cli.ts` is its own layer, `cli.ts`. */
function layerOf(path: string): string | undefined {
  const [top, layer] = path.split('/');
  return top === 'appliance' ? layer : undefined;
}

function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}

function violationsOf(file: SourceFile, name: string, layer: Layer): string[] {
  return importsOf(file).flatMap(({ specifier, target, isTypeOnly }) => {
    const say = (reason: string): string[] => [`${file.path} imports ${specifier}: ${reason}`];
    if (target === undefined) {
      if (isBuiltin(specifier)) return specifier.startsWith('node:') ? [] : say('write node:');
      return layer.packages.has(packageOf(specifier)) ? [] : say(`${name} has no such package in the table`);
    }
    const other = layerOf(target);
    if (other === undefined) return say('it lies outside of appliance/');
    if (other === name || layer.mayImport.has(other)) return [];
    if (layer.mayImportTypesOf.has(other)) return isTypeOnly ? [] : say(`${name} may import only types of ${other}`);
    return say(`${name} may not import ${other}`);
  });
}

const test = suite('layers');

test('the table names every folder of appliance/', () => {
  const layers = readLayers();
  assert.deepEqual(
    foldersBelow('appliance').filter((folder) => !layers.has(folder)),
    [],
  );
});

test('the table has no cycle: each row imports only rows above it', () => {
  const above = new Set<string>();
  for (const [names, , allowed] of tableBelow('docs/README.md', 'Layers')) {
    const missing = quoted((allowed ?? '').split('types of')[0] ?? '').filter((name) => !above.has(name));
    assert.deepEqual(missing, [], `the row of ${names ?? ''}`);
    for (const name of quoted(names ?? '')) above.add(name);
  }
});

test('every import of appliance/, type imports included, follows the table', () => {
  const layers = readLayers();
  const violations = typeScriptFiles().flatMap((file) => {
    const name = layerOf(file.path);
    if (name === undefined) return [];
    const layer = layers.get(name);
    return layer === undefined ? [`${file.path}: no row for ${name}`] : violationsOf(file, name, layer);
  });
  assert.deepEqual(violations, []);
});

test('uvu is imported by the suite, and by the traps that show why', () => {
  const importers = typeScriptFiles()
    .filter((file) => importsOf(file).some(({ specifier }) => packageOf(specifier) === 'uvu'))
    .map((file) => file.path)
    .filter((path) => !path.startsWith('test/support/traps/bare-uvu/'));
  assert.deepEqual(importers, ['test/support/suite.ts']);
});

test('an import is recognized in each of its forms', () => {
  const text = `import a from 'a';
import type { B } from './b.ts';
import {
  type C,
  type D,
} from '../c/d.ts';
import { type E, f } from '@scope/e/f.js';
export { g } from './g.ts';
import 'h';
const i = await import('i');
new Worker(new URL('./j.ts', import.meta.url));
`;
  const found = importsOf({ path: 'appliance/x/y.ts', text }).map((one) => [one.specifier, one.isTypeOnly, one.target]);
  assert.deepEqual(found, [
    ['a', false, undefined],
    ['./b.ts', true, 'appliance/x/b.ts'],
    ['../c/d.ts', true, 'appliance/c/d.ts'],
    ['@scope/e/f.js', false, undefined],
    ['./g.ts', false, 'appliance/x/g.ts'],
    ['h', false, undefined],
    ['i', false, undefined],
    ['./j.ts', false, 'appliance/x/j.ts'],
  ]);
});
