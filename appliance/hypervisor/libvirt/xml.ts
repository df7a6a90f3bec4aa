// SPDX-License-Identifier: Apache-2.0
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { ApplianceError } from '../../core/errors.ts';

/** An element as it stands in the document: order, white space and what we do not know are kept. */
export interface XmlElement {
  name: string;
  attributes: Record<string, string>;
  children: XmlNode[];
}

export type XmlNode = XmlElement | { readonly text: string } | { readonly comment: string };

/** libvirt itself takes domain definitions up to some MiB. */
const MAX_XML_LENGTH = 16 * 1024 * 1024;
const COMMENT = '#comment';
const CDATA = '#cdata';
const TEXT = '#text';
const ATTRIBUTES = ':@';

const NAMED_ENTITIES: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

// Entities stay as they are here, and are decoded below: the parser would leave numeric ones alone.
const parser = new XMLParser({
  preserveOrder: true,
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  parseAttributeValue: false,
  trimValues: false,
  processEntities: false,
  commentPropName: COMMENT,
  cdataPropName: CDATA,
  ignoreDeclaration: true,
  ignorePiTags: true,
});

/** Parses a document without DTD. Throws DOMAIN_XML_INVALID. */
export function parseXml(text: string): XmlElement {
  if (text.length > MAX_XML_LENGTH) throw invalid('it is too long');
  // A document type could define entities that expand without bound; libvirt never writes one.
  if (/<!DOCTYPE/i.test(text)) throw invalid('it has a document type');
  const verdict = XMLValidator.validate(text);
  if (verdict !== true) throw invalid(`${verdict.err.msg} (line ${verdict.err.line})`);
  const roots = convert(parser.parse(text)).filter(isElement);
  const root = roots[0];
  if (root === undefined || roots.length > 1) throw invalid('it must have one root element');
  return root;
}

/** Writes the document again; `parseXml(formatXml(x))` equals `x`. */
export function formatXml(root: XmlElement): string {
  return `${formatNode(root)}\n`;
}

export function isElement(node: XmlNode): node is XmlElement {
  return 'name' in node;
}

export function element(
  name: string,
  attributes: Readonly<Record<string, string | undefined>> = {},
  children: readonly (XmlNode | string)[] = [],
): XmlElement {
  const present = Object.entries(attributes).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return {
    name,
    attributes: Object.fromEntries(present),
    children: children.map((child) => (typeof child === 'string' ? { text: child } : child)),
  };
}

export function childrenOf(parent: XmlElement | undefined, name?: string): XmlElement[] {
  const elements = parent?.children.filter(isElement) ?? [];
  return name === undefined ? elements : elements.filter((child) => child.name === name);
}

/** The first element at a path of names, e.g. `os/loader`. */
export function find(parent: XmlElement | undefined, path: string): XmlElement | undefined {
  let current = parent;
  for (const name of path.split('/')) current = childrenOf(current, name)[0];
  return current;
}

/** The element's own text, trimmed; undefined when there is no element or no text. */
export function textOf(node: XmlElement | undefined): string | undefined {
  if (node === undefined) return undefined;
  const text = node.children
    .map((child) => ('text' in child ? child.text : ''))
    .join('')
    .trim();
  return text === '' ? undefined : text;
}

export function attributeOf(node: XmlElement | undefined, name: string): string | undefined {
  return node?.attributes[name];
}

export function setText(node: XmlElement, text: string): void {
  node.children = [{ text }];
}

/** Takes `child` out, with the white space before it. */
export function removeChild(parent: XmlElement, child: XmlElement): void {
  const index = parent.children.indexOf(child);
  if (index < 0) return;
  const before = parent.children[index - 1];
  const isIndent = before !== undefined && 'text' in before && before.text.trim() === '';
  parent.children.splice(isIndent ? index - 1 : index, isIndent ? 2 : 1);
}

/** Removes all child elements of these names and returns whether there were any. */
export function removeChildren(parent: XmlElement, ...names: readonly string[]): boolean {
  const unwanted = childrenOf(parent).filter((child) => names.includes(child.name));
  for (const child of unwanted) removeChild(parent, child);
  return unwanted.length > 0;
}

/** Puts `child` in the place of `old`, or at the end of `parent` when there is no such element. */
export function replaceChild(parent: XmlElement, old: XmlElement | undefined, child: XmlElement): void {
  const index = old === undefined ? -1 : parent.children.indexOf(old);
  if (index < 0) parent.children.push(child);
  else parent.children[index] = child;
}

function convert(parsed: unknown): XmlNode[] {
  if (!Array.isArray(parsed)) throw invalid('it cannot be parsed');
  return parsed.map((entry: unknown) => convertEntry(entry as Record<string, unknown>));
}

function convertEntry(entry: Record<string, unknown>): XmlNode {
  const name = Object.keys(entry).find((key) => key !== ATTRIBUTES);
  if (name === undefined) throw invalid('it cannot be parsed');
  const value = entry[name];
  if (name === TEXT) return { text: decodeEntities(String(value)) };
  if (name === COMMENT) return { comment: rawText(value) };
  if (name === CDATA) return { text: rawText(value) };
  const attributes: Record<string, string> = {};
  for (const [key, text] of Object.entries((entry[ATTRIBUTES] ?? {}) as Record<string, unknown>)) {
    attributes[key] = decodeEntities(String(text));
  }
  return { name, attributes, children: convert(value) };
}

function rawText(value: unknown): string {
  if (!Array.isArray(value)) return '';
  return (value as readonly Readonly<Record<string, string>>[]).map((part) => part[TEXT] ?? '').join('');
}

function decodeEntities(text: string): string {
  return text.replace(/&(#x[0-9a-f]+|#[0-9]+|\w+);/gi, (whole, name: string) => {
    if (!name.startsWith('#')) {
      const character = NAMED_ENTITIES[name];
      if (character === undefined) throw invalid(`it has the unknown entity ${whole}`);
      return character;
    }
    const code = /^#x/i.test(name) ? Number.parseInt(name.slice(2), 16) : Number.parseInt(name.slice(1), 10);
    if (code > 0x10ffff) throw invalid(`it has the impossible character ${whole}`);
    return String.fromCodePoint(code);
  });
}

function formatNode(node: XmlNode): string {
  if ('text' in node) return escapeText(node.text);
  if ('comment' in node) return `<!--${node.comment}-->`;
  const attributes = Object.entries(node.attributes).map(([name, value]) => ` ${name}="${escapeAttribute(value)}"`);
  const open = `<${node.name}${attributes.join('')}`;
  if (node.children.length === 0) return `${open}/>`;
  return `${open}>${node.children.map(formatNode).join('')}</${node.name}>`;
}

function escapeText(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('\r', '&#13;');
}

function escapeAttribute(text: string): string {
  return escapeText(text).replaceAll('"', '&quot;').replaceAll('\n', '&#10;').replaceAll('\t', '&#9;');
}

function invalid(reason: string): ApplianceError {
  return new ApplianceError('DOMAIN_XML_INVALID', `the XML cannot be used: ${reason}`);
}
