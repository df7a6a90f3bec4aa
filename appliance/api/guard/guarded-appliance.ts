// SPDX-License-Identifier: Apache-2.0
import { OPERATION_ROUTES } from '../operation-routes.ts';
import type { Appliance, OperationContext, OperationName } from '../operations.ts';
import type { OperationGuard } from './operation-guard.ts';

type AnyOperation = (params: Readonly<Record<string, unknown>>, context: OperationContext) => Promise<unknown>;

/** The same appliance, which does for the principal of each call what the guard lets pass, and shows what it lets be seen. */
export function guardedAppliance(appliance: Appliance, guard: OperationGuard): Appliance {
  const operations = Object.keys(OPERATION_ROUTES).map((name): [string, AnyOperation] => {
    const operation = name as OperationName;
    const perform = appliance[operation].bind(appliance) as AnyOperation;
    return [
      operation,
      async (params, context) => {
        const { principal, requestId, address } = context;
        await guard.authorize({ principal, operation, params, requestId, address });
        return guard.visible({ principal, operation }, await perform(params, context));
      },
    ];
  });
  return {
    ...(Object.fromEntries(operations) as unknown as Appliance),
    [Symbol.asyncDispose]: () => appliance[Symbol.asyncDispose](),
  };
}
