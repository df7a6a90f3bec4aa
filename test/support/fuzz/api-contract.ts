// SPDX-License-Identifier: Apache-2.0

import type { ValidateFunction } from 'ajv';
import { Ajv2020 } from 'ajv/dist/2020.js';

/** JSON, as far as this needs it. */
export type Json = Readonly<Record<string, unknown>>;

export interface ContractParameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly required: boolean;
  readonly schema: Json;
}

export interface ContractOperation {
  readonly id: string;
  /** In upper case. */
  readonly method: string;
  /** With `{name}`. */
  readonly template: string;
  readonly parameters: readonly ContractParameter[];
  readonly body: Json | undefined;
  readonly responses: Json;
}

/** What an OpenAPI document promises, for whoever wants to catch the server breaking it. */
export class ApiContract {
  readonly operations: readonly ContractOperation[];
  readonly #document: Json;
  readonly #ajv: Ajv2020;
  readonly #validators = new Map<string, ValidateFunction | undefined>();

  constructor(document: Json) {
    this.#document = document;
    this.#ajv = new Ajv2020({ strict: false, allErrors: false, validateFormats: false });
    this.#ajv.addSchema(document, 'api');
    this.operations = Object.entries(document['paths'] as Json).flatMap(([template, path]) =>
      Object.entries(path as Json).map(([method, operation]) => this.#operation(template, method, operation as Json)),
    );
  }

  /** The schema, or what its reference names. */
  resolve(schema: Json): Json {
    const { $ref } = schema;
    return typeof $ref === 'string' ? this.resolve(this.#at($ref.slice(2).split('/'))) : schema;
  }

  /** What is wrong with an answer; empty when it is as the document says. */
  defects(operation: ContractOperation | undefined, answer: { status: number; type: string; body: string }): string[] {
    const { status, type, body } = answer;
    if (status === 304 || status === 204) return body === '' ? [] : [`a body with ${status}`];
    if (status >= 400) {
      if (status === 503 && type === 'application/json' && operation?.id === 'healthReady') return [];
      if (type !== 'application/problem+json') return [`${status} as ${type}`];
      return this.#compare('#/components/schemas/Problem', body, (value) => problemDefects(value as Json, status));
    }
    if (operation === undefined) return [];
    const response = operation.responses[String(status)] as Json | undefined;
    if (response === undefined) return [`${status} is not in the document`];
    const content = (response['content'] ?? {}) as Json;
    if (!Object.hasOwn(content, type)) return [`${type} is not in the document for ${status}`];
    if (type !== 'application/json') return [];
    const path = [
      'paths',
      operation.template,
      operation.method.toLowerCase(),
      'responses',
      String(status),
      'content',
      type,
    ];
    return this.#compare(`#/${[...path, 'schema'].map(escapePointer).join('/')}`, body, () => []);
  }

  #compare(pointer: string, body: string, more: (value: unknown) => string[]): string[] {
    let value: unknown;
    try {
      value = JSON.parse(body);
    } catch {
      return [`not JSON: ${body.slice(0, 100)}`];
    }
    const validate = this.#validatorOf(pointer);
    if (!validate(value)) return [`${this.#ajv.errorsText(validate.errors)} in ${body.slice(0, 300)}`];
    return more(value);
  }

  #validatorOf(pointer: string): ValidateFunction {
    const known = this.#validators.get(pointer) ?? this.#ajv.compile({ $ref: `api${pointer}` });
    this.#validators.set(pointer, known);
    return known;
  }

  #operation(template: string, method: string, operation: Json): ContractOperation {
    const parameters = (operation['parameters'] ?? []) as readonly Json[];
    const { content = {} } = this.resolve((operation['requestBody'] ?? {}) as Json);
    const body = ((content as Json)['application/json'] as Json | undefined)?.['schema'] as Json | undefined;
    return {
      id: String(operation['operationId']),
      method: method.toUpperCase(),
      template,
      parameters: parameters.map((parameter) => this.resolve(parameter) as unknown as ContractParameter),
      body,
      responses: operation['responses'] as Json,
    };
  }

  #at(path: readonly string[]): Json {
    let value: unknown = this.#document;
    for (const name of path) value = (value as Json)[name.replaceAll('~1', '/').replaceAll('~0', '~')];
    return value as Json;
  }
}

function problemDefects(problem: Json, status: number): string[] {
  return problem['status'] === status ? [] : [`the problem says ${String(problem['status'])}, the answer ${status}`];
}

function escapePointer(name: string): string {
  return encodeURIComponent(name.replaceAll('~', '~0').replaceAll('/', '~1'));
}
