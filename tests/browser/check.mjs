// The vectors of the codec and of single blocks, in whatever runs this: Node or a page.
import { ascii, hex, sha256, stream, unhex, verify } from '../../examples/browser/bonawitz.mjs';
import { fraction, planGraph } from '../../examples/browser/graph.mjs';
import { encode, readModel, readProposal, readRequest, writeAnswer }
  from '../../examples/browser/secagg.mjs';

/** Entries of a long update, as docs/protocols/codec.md counts them. */
const pattern = (entries) =>
  Array.from({ length: entries }, (_, i) => ((37 * i) % 1001 - 500) / 400);

/** How many values of three files of JSON and of the plans come out; throws at one that fails. */
export async function check(files) {
  const plans = files.at(-1);
  const [blocks, codec, carried] = files.slice(0, -1).map((text) => JSON.parse(text));
  let checked = 0;
  const equal = (found, wanted, what) => {
    if (found !== wanted) throw new Error(`${what}: ${found}, not ${wanted}`);
    checked++;
  };
  for (const { suite, seed, label, words, sha256: digest } of blocks.streams) {
    const drawn = await stream(unhex(seed), ascii(label), suite);
    equal(hex(await sha256(await drawn(0, words))), digest, `stream of suite ${suite}`);
  }
  for (const [signed, good] of [[[blocks.signature], true], [blocks['refused signatures'], false]])
    for (const { public: key, label, message, signature } of signed) {
      const found = await verify(unhex(key), ascii(label), unhex(message), unhex(signature));
      equal(found, good, 'signature');
    }
  for (const { shows, proposal, own, seeds, segments, public: known, words, sha256: digest }
    of codec.cases) {
    const read = await readProposal(ascii(proposal), 65535), left = seeds.map(unhex);
    equal(hex(await sha256(ascii(proposal))), known, shows);
    const layout = read.segments.map(({ name, entries, lanes }) => ({ name, entries, lanes }));
    equal(JSON.stringify(layout), JSON.stringify(segments), shows);
    const brought = typeof own === 'string'
      ? own : { ...own, update: own.update ?? pattern(read.entries) };
    const made = await encode(read, brought, () => left.shift());
    if (digest) equal(hex(await sha256(made)), digest, shows);
    else equal(hex(made.slice().reverse()), words.toReversed().join(''), shows);
  }
  for (const row of plans.trim().split('\n').slice(1)) {
    const [clients, corrupt, dropout, active] = row.split(',');
    const rates = [corrupt, dropout].map(fraction);
    let plan = {}; // none: no graph is safe
    try {
      plan = planGraph(Number(clients), ...rates, active === '1', Number(clients));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
    const { degree = 'none', threshold = '', quorum = '' } = plan;
    const found = [clients, corrupt, dropout, active, degree ?? 'complete', threshold, quorum];
    equal(found.join(','), row, 'plan');
  }
  const crowd = codec.cases[0].proposal.replace('"params":"0000000a', '"params":"ffffffff');
  const why = await readProposal(ascii(crowd), 1000).catch((error) => error.message);
  equal(why, "this node's policy refuses (maximum_cohort 1000)", 'four billion clients');
  for (const [kind, why] of [
    ['cases of several versions', 'a page brings updates of one version of the model'],
    ['cases of parts', 'a page brings all arrays of an update']])
    for (const { shows, proposal } of codec[kind]) {
      const said = await readProposal(ascii(proposal), 1000).catch((error) => error.message);
      equal(said, why, shows);
    }
  const { request, answer, model } = carried;
  const { signed } = readRequest(unhex(request['unsigned bytes']));
  equal(hex(signed), request.signed, 'request');
  const label = ascii('secagg/1 request'), by = unhex(request.server);
  equal(await verify(by, label, signed, unhex(request.signature)), true, 'the server signed');
  equal(hex(writeAnswer(answer.messages.map(unhex))).slice(-40), answer.bytes.slice(-40), 'answer');
  equal(hex((await readModel(unhex(model.bytes))).digest), model.digest, 'model');
  return checked;
}

const { process } = globalThis;
if (process && process.argv[1] === import.meta.filename) {
  const { readFile } = await import('node:fs/promises');
  const files = await Promise.all(process.argv.slice(2).map((file) => readFile(file, 'utf8')));
  console.log(await check(files));
}
