// SPDX-License-Identifier: Apache-2.0
import { encodeCounts } from '../../counts.ts';

// A file that writes its own counts.
console.log(encodeCounts({ total: 2, passed: 1, failed: 0, skipped: 1, skips: [] }));
