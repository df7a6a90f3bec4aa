// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';

/**
 * The bytes of the first code block below a heading. Each line is an offset (which must be that of its first byte), bytes
 * as pairs of digits, and whatever is for people behind them.
 */
export function hexExample(page: string, heading: string): Buffer {
  const section = page.split(new RegExp(`^#+ ${heading}$`, 'm'))[1];
  const block = /```text\n([^`]*)```/.exec(section ?? '')?.[1];
  assert.ok(block !== undefined, `the page has an example "${heading}"`);
  const parts: Buffer[] = [];
  let length = 0;
  for (const line of block.split('\n').filter((text) => text !== '')) {
    const [, offset = '', pairs = ''] = /^([0-9a-f]{4})  ((?:[0-9a-f]{2} ){0,15}[0-9a-f]{2})(?: |$)/.exec(line) ?? [];
    assert.equal(Number.parseInt(offset, 16), length, `the offset of "${line}"`);
    const bytes = Buffer.from(pairs.replaceAll(' ', ''), 'hex');
    parts.push(bytes);
    length += bytes.length;
  }
  return Buffer.concat(parts);
}
