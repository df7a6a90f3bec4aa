// SPDX-License-Identifier: Apache-2.0

/** Command lines beneath each other, each with what it does. */
export function formatExamples(examples: readonly (readonly [line: string, meaning: string])[]): string {
  const width = Math.max(...examples.map(([line]) => line.length));
  return ['Examples:', ...examples.map(([line, meaning]) => `  ${line.padEnd(width)}   ${meaning}`)].join('\n');
}
