// SPDX-License-Identifier: Apache-2.0
import { isOperationName } from '../../appliance/api/operation-routes.ts';
import type { Appliance, OperationContext } from '../../appliance/api/operations.ts';
import { checkResult } from '../../appliance/api/schemas/check.ts';

type AnyOperation = (params: unknown, context: OperationContext) => Promise<unknown>;

/** The same appliance; an operation of it rejects when its result is not as its schema says. */
export function checkedAppliance<T extends Appliance>(appliance: T): T {
  return new Proxy(appliance, {
    get: (target, name) => {
      const member: unknown = Reflect.get(target, name, target);
      if (typeof member !== 'function') return member;
      const operation = member.bind(target) as AnyOperation;
      if (typeof name !== 'string' || !isOperationName(name)) return operation;
      return async (params: unknown, context: OperationContext) => {
        const result = await operation(params, context);
        checkResult(name, result);
        return result;
      };
    },
  });
}
