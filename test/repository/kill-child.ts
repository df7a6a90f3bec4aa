// SPDX-License-Identifier: Apache-2.0
import { workUntilKilled } from './kill-work.ts';

const [directory = '', seed = '0'] = process.argv.slice(2);
await workUntilKilled(directory, Number(seed));
