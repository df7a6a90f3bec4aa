// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { processIo } from '../../appliance/cli/io.ts';
import { buildProgram } from '../../appliance/cli/program.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { suite } from '../support/suite.ts';

const test = suite('docs/cli.md');
const page = await readFile(new URL('../../docs/cli.md', import.meta.url), 'utf8');

/** Options that the page describes once, for all commands. */
const COMMON = [
  '--json',
  '--state <dir>',
  '--server <url>',
  '--token <token>',
  '--token-file <file>',
  '--fingerprint <sha256>',
  '--ca <file>',
];

/** Usage of each command (`machine show <name>`) with the flags of its own options. */
function commandsOfProgram(): Map<string, string[]> {
  const program = buildProgram(
    {
      io: processIo('/home/operator'),
      dependencies: {
        openAppliance: () => Promise.reject(new Error('not opened')),
        initialize: () => Promise.reject(new Error('not initialized')),
        selfCommand: ['false'],
      },
      signal: new AbortController().signal,
      result: { exitCode: 0 },
    },
    () => undefined,
  );
  const found = new Map<string, string[]>();
  const visit = (command: Command, path: readonly string[]): void => {
    for (const child of command.commands) {
      if (child.commands.length > 0) visit(child, [...path, child.name()]);
      else {
        const args = child.registeredArguments.map((one) => (one.required ? `<${one.name()}>` : `[${one.name()}]`));
        const flags = child.options.map((option) => option.flags).filter((flag) => !COMMON.includes(flag));
        found.set([...path, child.name(), ...args].join(' '), flags.sort());
      }
    }
  };
  visit(program, []);
  return found;
}

function commandsOfPage(): Map<string, string[]> {
  const sections = page.split(/^##+ /m).map((section) => section.split('\n'));
  const found = new Map<string, string[]>();
  for (const [title = '', ...lines] of sections) {
    const usage = /^`understudy (.*)`$/.exec(title)?.[1];
    if (usage === undefined) continue;
    const flags = lines.flatMap((line) => /^\| `(--[^`]*)` \|/.exec(line)?.[1] ?? []);
    found.set(usage, flags.sort());
  }
  return found;
}

test('names every command with its arguments and options, and no other', () => {
  assert.deepEqual(Object.fromEntries(commandsOfPage()), Object.fromEntries(commandsOfProgram()));
});

test('describes the common options', () => {
  for (const option of COMMON) assert.ok(page.includes(`| \`${option}\` |`), option);
});

test('lists the exit codes, and no other', () => {
  const section = page.split('### Exit codes')[1]?.split('###')[0] ?? '';
  const codes = [...section.matchAll(/^\| (\d+) \|/gm)].map((match) => Number(match[1]));
  assert.deepEqual(codes, Object.values(EXIT_CODES));
});
