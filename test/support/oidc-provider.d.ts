// SPDX-License-Identifier: Apache-2.0

/** As much of the provider, which comes without types, as `identity-provider.ts` uses. */
declare module 'oidc-provider' {
  import type { IncomingMessage, ServerResponse } from 'node:http';

  export interface KoaContextWithOIDC {
    readonly oidc: {
      readonly client?: { readonly clientId: string };
      readonly session?: { readonly accountId?: string };
      readonly provider: {
        readonly Grant: new (of: {
          readonly clientId: string;
          readonly accountId: string;
        }) => { addOIDCScope(scope: string): void; save(): Promise<string> };
      };
    };
  }

  export interface Configuration {
    readonly clients: readonly object[];
    readonly claims: Readonly<Record<string, readonly string[]>>;
    readonly features: object;
    readonly interactions: { url(context: unknown, interaction: { readonly uid: string }): string };
    readonly cookies: { readonly keys: readonly string[] };
    readonly pkce: { required(): boolean };
    readonly findAccount: (
      context: unknown,
      subject: string,
    ) => { readonly accountId: string; claims(): Readonly<Record<string, unknown>> } | undefined;
    readonly loadExistingGrant: (context: KoaContextWithOIDC) => Promise<unknown>;
    readonly ttl: Readonly<Record<string, number>>;
  }

  export class Provider {
    constructor(issuer: string, configuration: Configuration);
    callback(): (request: IncomingMessage, response: ServerResponse) => unknown;
    interactionFinished(request: IncomingMessage, response: ServerResponse, result: object): Promise<void>;
  }
}
