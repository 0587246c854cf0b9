// A clinic in Node: CLINIC=1 node join.mjs http://127.0.0.1:8481 < token
import { text } from 'node:stream/consumers';

import { clinic } from './clinic.mjs';
import { join, memoryBurns } from './secagg.mjs';

const token = (await text(process.stdin)).trim();
await join(process.argv[2], token, clinic(Number(process.env.CLINIC)), {
  burns: memoryBurns(), // a program that starts again counts its sums anew: see README.md
  log: (line) => console.error(line),
});
