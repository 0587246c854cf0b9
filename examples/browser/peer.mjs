// The module as a peer of `secagg interop`: a client alone. docs/protocols/interop.md
import { createInterface } from 'node:readline';

import { Agreement, Client, Refusal, hex, unhex } from './bonawitz.mjs';

const clients = new Map();
const request = (wrong, message) => { if (wrong) throw new Refusal('request', message); };
const agreed = (said) => new Agreement({ ...said, session: unhex(said.session),
  public: unhex(said.public) });
const operations = {
  hello: () => ({ protocol: 'secagg interop 1', speaks: 'secagg/1 bonawitz', roles: ['client'] }),
  agreement: (q) => hex(agreed(q.agreement).bytes),
  client: async (q) => {
    request(clients.has(q.id), 'there is such a party already');
    const party = new Client(agreed(q.agreement), q.client, {
      entropy: unhex(q.entropy),
      identity: q.identity ? unhex(q.identity) : null,
      identities: new Map(
        Object.entries(q.identities ?? {}).map(([client, key]) => [Number(client), unhex(key)])),
    });
    const message = hex(await party.join());
    clients.set(q.id, { party, words: unhex(q.words) });
    return message;
  },
  message: async (q) => {
    request(!clients.has(q.id), 'no such party');
    const { party, words } = clients.get(q.id);
    return (await party.answer(unhex(q.message), () => words)).map(hex);
  },
  drop: (q) => {
    request(!clients.delete(q.id), 'no such party');
    return null;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const q = JSON.parse(line);
    request(!Object.hasOwn(operations, q.op), `no request is called ${q.op}`);
    answer = { ok: await operations[q.op](q) };
  } catch (error) {
    if (!(error instanceof Refusal || error instanceof SyntaxError)) throw error;
    answer = { error: error.layer ?? 'request', message: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
