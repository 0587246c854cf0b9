// A node for tests, in Node and in pages: it moves every entry by 0.5 / (1 + number).
import { join, memoryBurns } from '../../examples/browser/secagg.mjs';

/** Takes part until `last`, a line of its log, was said; null: until it is ended. */
export async function member(url, token, number, last = null, policy = {}, said = () => {}) {
  const ended = new AbortController(), move = Math.fround(0.5 / (1 + number));
  const train = (model) => {
    if (number === 99) throw new Error('of its data, which nobody may hear');
    const moved = [...model].map(([name, values]) => [name, values.map((value) => value + move)]);
    const numbers = { 'num-examples': 1 + (number % 7), loss: number % 5 };
    return { arrays: new Map(moved), numbers };
  };
  await join(url, token, train, {
    burns: memoryBurns(),
    policy: { minimum_cohort: 2, sums_per_model: 100, ...policy },
    signal: ended.signal,
    log: (line) => {
      said(line);
      if (line === last) ended.abort();
    },
  });
}

const { process } = globalThis;
if (process && process.argv[1] === import.meta.filename) {
  const given = JSON.parse(process.argv[2]);
  await member(...given, (line) => console.error(line));
}
