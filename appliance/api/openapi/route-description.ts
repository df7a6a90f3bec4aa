// SPDX-License-Identifier: Apache-2.0
import type { OperationRoute, RestorerUse } from '../operation-routes.ts';

/** Who may use an operation and what it means, in sentences, from the table. */
export function describeRoute(route: OperationRoute): string {
  const { kind, needs, restorer, destroys, secondPerson } = route;
  const sentences = [
    restorer !== undefined && 'own' in restorer ? 'For every role.' : `Needs the role \`${needs}\` at least.`,
  ];
  if (restorer !== undefined && !('own' in restorer)) sentences.push(describeRestorer(restorer));
  if (destroys === true)
    sentences.push('It cannot be taken back: `admin` only, and a second person where that is asked for.');
  else if (destroys !== undefined) {
    sentences.push(
      `With ${named(destroys, 'or')} it cannot be taken back: \`admin\` only then, and a second person where that is asked for.`,
    );
  }
  if (secondPerson === true) sentences.push('It needs a second person where that is asked for.');
  if (kind === 'run') {
    sentences.push(
      'It takes its time: the answer is the run, which tells how far it is and holds the result in the end.',
    );
  }
  return sentences.join(' ');
}

function describeRestorer(restorer: Exclude<RestorerUse, { readonly own: true }>): string {
  if ('item' in restorer) return 'A `restorer` sees what belongs to the machines that were named for it.';
  const { parameter, also = [], must = [] } = restorer;
  const given = named([parameter, ...also], 'and');
  const needed = must.length === 0 ? '' : `, and has to give ${named(must, 'and')}`;
  return `A \`restorer\` may use it for the machines that were named for it, with ${given} only${needed}.`;
}

/** `a`, `b` and `c`. */
function named(names: readonly string[], word: 'and' | 'or'): string {
  const quoted = names.map((name) => `\`${name}\``);
  const last = quoted.at(-1) ?? '';
  return quoted.length < 2 ? last : `${quoted.slice(0, -1).join(', ')} ${word} ${last}`;
}
