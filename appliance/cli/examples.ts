// SPDX-License-Identifier: Apache-2.0

const MAX_COLUMNS = 80;

/** Command lines beneath each other, each with what it does: beside it, or below it when that is too wide. */
export function formatExamples(examples: readonly (readonly [line: string, meaning: string])[]): string {
  const width = Math.max(...examples.map(([line]) => line.length));
  const beside = examples.map(([line, meaning]) => `  ${line.padEnd(width)}   ${meaning}`);
  const isNarrow = beside.every((text) => text.length <= MAX_COLUMNS);
  const below = examples.map(([line, meaning]) => `  ${line}\n      ${meaning}`);
  return ['Examples:', ...(isNarrow ? beside : below)].join('\n');
}
