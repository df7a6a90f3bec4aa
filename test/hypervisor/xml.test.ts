// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  find,
  formatXml,
  parseXml,
  removeChildren,
  textOf,
  type XmlElement,
  type XmlNode,
} from '../../appliance/hypervisor/libvirt/xml.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('xml tree');

test('order, comments, namespaces, white space and unknown elements come back as they were', () => {
  const text = [
    '<domain type=\'kvm\' xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">',
    '  <b/><a/>  <b x="1"/>',
    '  <!-- a -- comment? no: one dash -->'.replace('-- comment', '- comment'),
    '  <unknown:thing xmlns:unknown="urn:x">0012</unknown:thing>',
    '  <qemu:commandline><qemu:arg value="-foo,bar=&quot;1&quot;"/></qemu:commandline>',
    '</domain>',
  ].join('\n');
  const once = formatXml(parseXml(text));
  assert.equal(once, `${text.replace("type='kvm'", 'type="kvm"')}\n`);
  assert.equal(formatXml(parseXml(once)), once);
});

test('entities, numeric characters and CDATA are decoded, and encoded again', () => {
  const root = parseXml('<a b="1 &lt; 2 &amp;&amp; &#34;x&#34;&#10;y">&#x4e2d;&gt;<![CDATA[<&>]]></a>');
  assert.equal(root.attributes['b'], '1 < 2 && "x"\ny');
  assert.equal(textOf(root), '中><&>');
  assert.deepEqual(parseXml(formatXml(root)).attributes, root.attributes);
});

test('what is no document, or tries to be more than one, is refused', async () => {
  const bad = [
    '',
    'text',
    '<a>',
    '<a></b>',
    '<a/><b/>',
    '<a x=1/>',
    '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
    '<a>&nothing;</a>',
    '<a>&#x110000;</a>',
    `<a>${'x'.repeat(17 * 1024 * 1024)}</a>`,
  ];
  for (const text of bad) {
    await rejectsWith(
      Promise.resolve().then(() => parseXml(text)),
      'DOMAIN_XML_INVALID',
    );
  }
});

test('removing an element takes its indentation along', () => {
  const root = parseXml('<a>\n  <b/>\n  <c/>\n  <b/>\n</a>');
  assert.equal(removeChildren(root, 'b'), true);
  assert.equal(formatXml(root), '<a>\n  <c/>\n</a>\n');
  assert.equal(find(root, 'b'), undefined);
});

test('any tree that is written and parsed is the same tree', () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,6}$/);
  const characters = ['a', 'b', ' ', '<', '>', '&', '"', "'", '\n', '\t', '\r', ';', '#', 'é', '中', '😀'];
  const value = fc.string({ unit: fc.constantFrom(...characters), maxLength: 8 });
  // Neighbouring texts melt into one, and text of nothing is no text.
  const text = fc.array(
    value.filter((content) => content !== '').map((content): XmlNode => ({ text: content })),
    {
      maxLength: 1,
    },
  );
  const attributes = fc.dictionary(name, value, { maxKeys: 3, noNullPrototype: true });
  const tree: fc.Memo<XmlElement> = fc.memo((depth) =>
    fc
      .tuple(name, attributes, depth <= 1 ? text : fc.oneof(text, fc.array(tree(), { maxLength: 3 })))
      .map(([tag, given, children]) => ({ name: tag, attributes: given, children })),
  );
  fc.assert(
    fc.property(tree(4), (root) => {
      assert.deepEqual(parseXml(formatXml(root)), root);
    }),
    { numRuns: 300 },
  );
});
