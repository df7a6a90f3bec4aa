// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { posix } from 'node:path';
import { suite } from '../support/suite.ts';
import { codeLines, projectFiles, type SourceFile, tableBelow, typeScriptFiles } from './source-tree.ts';

const MAX_LINES = 500;

/** Files that are longer, each with the reason. */
const LONG_FILES: ReadonlyMap<string, string> = new Map();

interface BannedCall {
  readonly title: string;
  readonly pattern: RegExp;
  /** Path prefixes where the rule holds, and where it does not. */
  readonly within: readonly string[];
  readonly except: readonly string[];
}

const COMMAND_LINE = ['appliance/cli', 'appliance/main.ts'];

const BANNED_CALLS: readonly BannedCall[] = [
  {
    title: 'nothing but core/clock.ts reads the time, so that tests own it',
    pattern: /\bDate\.now\(|\bperformance\.now\(|\bprocess\.hrtime\b|\bnew Date\(\s*\)/,
    within: ['appliance/', 'test/'],
    except: ['appliance/core/clock.ts'],
  },
  {
    title: 'nothing draws from Math.random: ids come from node:crypto, test data from a seed',
    pattern: /\bMath\.random\(/,
    within: ['appliance/', 'test/', 'lab/', 'demo/'],
    except: [],
  },
  {
    title: 'nothing but the command line prints',
    pattern: /\bconsole\.\w+\(/,
    within: ['appliance/'],
    except: COMMAND_LINE,
  },
  {
    title: 'nothing but the hypervisor layer, the command line and what calls logger starts programs',
    pattern: /'(node:)?child_process'/,
    within: ['appliance/'],
    except: ['appliance/hypervisor/', 'appliance/audit/logger-program.ts', ...COMMAND_LINE],
  },
  {
    title: 'nothing but the command line ends the process',
    pattern: /\bprocess\.exit\(/,
    within: ['appliance/'],
    except: COMMAND_LINE,
  },
  {
    title: 'nothing silences the compiler',
    pattern: /\bas any\b|@ts-ignore|@ts-nocheck/,
    within: [''],
    except: ['test/tidy/'],
  },
];

function startsWithOneOf(path: string, prefixes: readonly string[]): boolean {
  return prefixes.some((prefix) => path.startsWith(prefix));
}

/** `path:line` of every code line that matches. */
function linesMatching(files: readonly SourceFile[], pattern: RegExp): string[] {
  return files.flatMap(({ path, text }) =>
    codeLines(text).flatMap((line, index) => (pattern.test(line) ? [`${path}:${index + 1}`] : [])),
  );
}

const test = suite('source files');

test(`no TypeScript file is longer than ${MAX_LINES} lines`, () => {
  const long = typeScriptFiles().filter(
    ({ path, text }) => text.split('\n').length - 1 > MAX_LINES && !LONG_FILES.has(path),
  );
  assert.deepEqual(
    long.map(({ path }) => path),
    [],
  );
});

test('every source file begins with its licence', () => {
  const sources = [...typeScriptFiles(), ...projectFiles('scripts'), ...projectFiles('.ci')];
  const without = sources.filter(({ text }) => {
    const [first = '', second = ''] = text.split('\n');
    const line = first.startsWith('#!') ? second : first;
    return !/^(\/\/|#) SPDX-License-Identifier: Apache-2\.0$/.test(line);
  });
  assert.deepEqual(
    without.map(({ path }) => path),
    [],
  );
});

for (const { title, pattern, within, except } of BANNED_CALLS) {
  test(title, () => {
    const files = typeScriptFiles().filter(
      ({ path }) =>
        startsWithOneOf(path, within) && !startsWithOneOf(path, except) && path !== 'test/tidy/source-files.test.ts',
    );
    assert.deepEqual(linesMatching(files, pattern).filter(isNotTrap), []);
  });
}

function isNotTrap(place: string): boolean {
  return !place.startsWith('test/support/traps/');
}

test('work that is left says where it is tracked', () => {
  const unreferenced = projectFiles('.', (path) => /\.(ts|md|sh)$/.test(path)).flatMap(({ path, text }) =>
    text
      .split('\n')
      .flatMap((line, index) => (/\b(TODO|FIXME|XXX)\b(?!\([^)]+\))/.test(line) ? [`${path}:${index + 1}`] : [])),
  );
  assert.deepEqual(
    unreferenced.filter((place) => !place.startsWith('test/tidy/')),
    [],
  );
});

test('files have names that say what is in them, in kebab-case', () => {
  const vague = /(^|[-.])(utils?|helpers?|common|manager|misc|stuff)(?=[-.]|$)/;
  const bad = typeScriptFiles()
    .map(({ path }) => path)
    .filter((path) => {
      const name = posix.basename(path);
      return vague.test(name) || name === 'index.ts' || !/^[a-z0-9]+(-[a-z0-9]+)*(\.test|\.d)?\.ts$/.test(name);
    });
  assert.deepEqual(bad, []);
});

test('no folder has a vague name', () => {
  const vague = /(^|\/)(utils?|helpers?|common|managers?|misc|lib)\//;
  assert.deepEqual(
    typeScriptFiles()
      .map(({ path }) => path)
      .filter((path) => vague.test(path)),
    [],
  );
});

test('no file only passes on what others export', () => {
  const barrels = typeScriptFiles().filter(({ text }) => {
    const statements = codeLines(text).filter((line) => line.trim() !== '');
    return statements.length > 0 && statements.every((line) => /^export (type )?(\*|\{[^}]*\}) /.test(line));
  });
  assert.deepEqual(
    barrels.map(({ path }) => path),
    [],
  );
});

test('exported names avoid the words that the glossary avoids', () => {
  const avoided = tableBelow('docs/glossary.md', 'Words to avoid')
    .filter(([, , names]) => names === 'yes')
    .map(([word]) => (word ?? '').toLowerCase());
  assert.ok(avoided.length > 0);
  const bad = typeScriptFiles()
    .filter(({ path }) => path.startsWith('appliance/'))
    .flatMap(({ path, text }) =>
      [...text.matchAll(/^export (?:declare )?(?:async )?(?:function|const|class|interface|type) (\w+)/gm)].flatMap(
        (match) => {
          const words = (match[1] ?? '').split(/(?<=[a-z0-9])(?=[A-Z])|_/).map((word) => word.toLowerCase());
          return words.some((word) => avoided.includes(word)) ? [`${path}: ${match[1]}`] : [];
        },
      ),
    );
  assert.deepEqual(bad, []);
});
