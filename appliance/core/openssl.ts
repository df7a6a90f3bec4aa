// SPDX-License-Identifier: Apache-2.0
import { createRequire } from 'node:module';
import type koffiModule from 'koffi';
import { AEAD_TAG_BYTES, type Aead, checkSizes, type SealParameters } from './aead.ts';
import { invariant } from './invariant.ts';

/*
 * AES-256-GCM by the OpenSSL that is part of the running program, called directly: node:crypto makes a buffer for each
 * result, and that costs five times as much as encrypting a chunk. Node exports OpenSSL's functions for its add-ons
 * (https://nodejs.org/api/addons.html, "Linking to libraries included with Node.js"); EVP_EncryptInit(3) describes them.
 */

/** EVP_CIPHER_CTX_ctrl's commands (<openssl/evp.h>). */
const GET_TAG = 0x10;
const SET_TAG = 0x11;

type Pointer = object;
/** Memory where a length is put. An array of JavaScript would be written after the call, which a thread that ends cannot. */
type OutNumber = Int32Array;

interface Functions {
  readonly newContext: () => Pointer | null;
  readonly aes256gcm: () => Pointer | null;
  readonly control: CFunction<[context: Pointer, command: number, length: number, tag: Buffer]>;
  readonly encryptInit: InitFunction;
  readonly encryptUpdate: UpdateFunction;
  readonly encryptFinal: FinalFunction;
  readonly decryptInit: InitFunction;
  readonly decryptUpdate: UpdateFunction;
  readonly decryptFinal: FinalFunction;
}

/** Positive when it succeeded. */
type CFunction<Parameters extends unknown[]> = (...parameters: Parameters) => number;
type InitFunction = CFunction<
  [context: Pointer, cipher: Pointer | null, engine: null, key: Buffer | null, nonce: Buffer | null]
>;
type UpdateFunction = CFunction<[context: Pointer, out: Buffer | null, done: OutNumber, from: Buffer, length: number]>;
type FinalFunction = CFunction<[context: Pointer, out: Buffer, done: OutNumber]>;

const require = createRequire(import.meta.url);

/** Undefined where this program does not export what is needed, or its OpenSSL does not offer the cipher. */
export function loadOpenssl(): Aead | undefined {
  try {
    return new OpensslAead(bind(require('koffi') as typeof koffiModule));
  } catch {
    // Whatever is missing, node:crypto is there and does the same.
    return undefined;
  }
}

function bind(koffi: typeof koffiModule): Functions {
  const program = koffi.load(null);
  const init = 'int(void *context, void *cipher, void *engine, const uint8_t *key, const uint8_t *nonce)';
  const update = 'int(void *context, uint8_t *out, void *done, const uint8_t *from, int length)';
  const final = 'int(void *context, uint8_t *out, void *done)';
  const declare = <T>(name: string, prototype: string): T =>
    program.func(prototype.replace('(', ` ${name}(`)) as unknown as T;
  return {
    newContext: declare('EVP_CIPHER_CTX_new', 'void *()'),
    aes256gcm: declare('EVP_aes_256_gcm', 'void *()'),
    control: declare('EVP_CIPHER_CTX_ctrl', 'int(void *context, int command, int length, uint8_t *tag)'),
    encryptInit: declare('EVP_EncryptInit_ex', init),
    encryptUpdate: declare('EVP_EncryptUpdate', update),
    encryptFinal: declare('EVP_EncryptFinal_ex', final),
    decryptInit: declare('EVP_DecryptInit_ex', init),
    decryptUpdate: declare('EVP_DecryptUpdate', update),
    decryptFinal: declare('EVP_DecryptFinal_ex', final),
  };
}

/** One context for each direction, which live as long as the thread. */
class OpensslAead implements Aead {
  readonly #functions: Functions;
  readonly #sealing: Pointer;
  readonly #opening: Pointer;
  readonly #done: OutNumber = new Int32Array(1);
  /** What the final calls could put here is nothing: GCM is a stream. */
  readonly #rest: Buffer = Buffer.alloc(AEAD_TAG_BYTES);

  constructor(functions: Functions) {
    this.#functions = functions;
    const cipher = functions.aes256gcm();
    const sealing = functions.newContext();
    const opening = functions.newContext();
    invariant(cipher !== null && sealing !== null && opening !== null, 'OpenSSL offers AES-256-GCM');
    succeeded(functions.encryptInit(sealing, cipher, null, null, null));
    succeeded(functions.decryptInit(opening, cipher, null, null, null));
    this.#sealing = sealing;
    this.#opening = opening;
  }

  seal(parameters: SealParameters, plain: Buffer, into: Buffer): void {
    checkSizes(parameters, plain, into);
    const { key, nonce, additionalData, tag } = parameters;
    const functions = this.#functions;
    succeeded(functions.encryptInit(this.#sealing, null, null, key, nonce));
    succeeded(functions.encryptUpdate(this.#sealing, null, this.#done, additionalData, additionalData.length));
    if (plain.length > 0) {
      succeeded(functions.encryptUpdate(this.#sealing, into, this.#done, plain, plain.length));
      invariant(this.#done[0] === plain.length, 'AES-GCM encrypts everything at once');
    }
    succeeded(functions.encryptFinal(this.#sealing, this.#rest, this.#done));
    succeeded(functions.control(this.#sealing, GET_TAG, AEAD_TAG_BYTES, tag));
  }

  open(parameters: SealParameters, stored: Buffer, into: Buffer): boolean {
    checkSizes(parameters, stored, into);
    const { key, nonce, additionalData, tag } = parameters;
    const functions = this.#functions;
    succeeded(functions.decryptInit(this.#opening, null, null, key, nonce));
    succeeded(functions.decryptUpdate(this.#opening, null, this.#done, additionalData, additionalData.length));
    if (stored.length > 0) {
      succeeded(functions.decryptUpdate(this.#opening, into, this.#done, stored, stored.length));
      invariant(this.#done[0] === stored.length, 'AES-GCM decrypts everything at once');
    }
    succeeded(functions.control(this.#opening, SET_TAG, AEAD_TAG_BYTES, tag));
    return functions.decryptFinal(this.#opening, this.#rest, this.#done) > 0;
  }
}

function succeeded(result: number): void {
  invariant(result > 0, 'a call of OpenSSL succeeds');
}
