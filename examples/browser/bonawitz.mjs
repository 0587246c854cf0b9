// A client of the masks' protocol, docs/protocols/bonawitz.md, with nothing but WebCrypto.
//
// Bytes in, bytes out: `Client` neither calls anybody nor stores anything. Everything secret stays
// in memory and is gone with the page, so that a state answers once. Rules (R1 and on) are numbered
// as on that page.

import { complete, fraction, majority, planGraph, times } from './graph.mjs';

const { subtle } = globalThis.crypto;

export class Refusal extends Error {
  /** `layer` as in docs/protocols/interop.md: decode, rule or local. */
  constructor(layer, message) {
    super(message);
    this.layer = layer;
  }
}
const [decode, rule, local] = ['decode', 'rule', 'local'].map((layer) => (wrong, message) => {
  if (wrong) throw new Refusal(layer, message);
});

// Bytes

export const ascii = (text) => new TextEncoder().encode(text);
const integer = (size) => (value) => {
  const out = new Uint8Array(size);
  let left = BigInt(value);
  for (let i = size - 1; i >= 0; i--, left >>= 8n) out[i] = Number(left & 255n);
  return out;
};
export const [u8, u32, u64] = [1, 4, 8].map(integer);
export const cat = (...parts) => {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (out.set(part, at), at + part.length), 0);
  return out;
};
export const opaque = (data) => cat(u32(data.length), data);
export const hex = (data) => Array.from(data, (b) => b.toString(16).padStart(2, '0')).join('');
export function unhex(text) {
  decode(!/^([0-9a-f]{2})*$/i.test(text), 'no hexadecimal digits');
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
export const same = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);
export const sha256 = async (...parts) =>
  new Uint8Array(await subtle.digest('SHA-256', cat(...parts)));
const checked = async (...parts) => cat(...parts, (await sha256(...parts)).subarray(0, 16));
const sorted = (clients) => [...clients].sort((a, b) => a - b);
const list = (map) =>
  cat(u32(map.size), ...sorted(map.keys()).flatMap((client) => [u32(client), map.get(client)]));

export class Reader {
  constructor(data) { this.rest = data; }
  take(size) {
    decode(size > this.rest.length, `need ${size} bytes, ${this.rest.length} left`);
    const head = this.rest.subarray(0, size);
    this.rest = this.rest.subarray(size);
    return head;
  }
  number(size) { return this.take(size).reduce((sum, byte) => sum * 256 + byte, 0); }
  u8() { return this.number(1); }
  u32() { return this.number(4); }
  opaque() { return this.take(this.u32()); }
  list(read) { // R6
    const found = new Map();
    for (let left = this.u32(), last = -1; left > 0; left--) {
      const client = this.u32();
      decode(client <= last, `client ${client} is listed after ${last}`);
      found.set((last = client), read(this));
    }
    return found;
  }
  /** A set of members of a roster, and its bytes. R7 */
  subset(members) {
    const before = this.rest, places = [], longest = Math.ceil(members.length / 8);
    const form = this.u8();
    decode(form > 1, `a set of form ${form}`);
    if (form === 0) {
      const bits = this.take(longest);
      for (let i = 0; i < 8 * longest; i++) if (bits[i >> 3] & (128 >> (i & 7))) places.push(i);
    } else {
      const count = this.u32();
      decode(4 + count >= longest, 'a set as gaps that is no shorter than a bitmap');
      for (let last = -1; places.length < count; places.push(last)) {
        for (let skip = 255; skip === 255; last += skip) skip = this.u8();
        last++;
      }
    }
    decode(places.at(-1) >= members.length, 'a set names more clients than the roster');
    const clients = new Set(places.map((place) => members[place]));
    const bytes = before.subarray(0, before.length - this.rest.length);
    decode(!same(bytes, subset(clients, members)), 'a set in its longer form');
    return { clients, bytes };
  }
  finish() { decode(this.rest.length > 0, `${this.rest.length} bytes left over`); }
}

function subset(clients, members) {
  const bitmap = new Uint8Array(Math.ceil(members.length / 8)), gaps = [];
  let last = -1;
  members.forEach((member, i) => {
    if (!clients.has(member)) return;
    bitmap[i >> 3] |= 128 >> (i & 7);
    let gap = i - last - 1;
    for (; gap >= 255; gap -= 255) gaps.push(255);
    gaps.push(gap);
    last = i;
  });
  return 4 + gaps.length >= bitmap.length
    ? cat(u8(0), bitmap)
    : cat(u8(1), u32(clients.size), Uint8Array.from(gaps));
}

// Primitives

const PKCS8 = {
  X25519: '302e020100300506032b656e04220420',
  Ed25519: '302e020100300506032b657004220420',
};
const privateKey = (name, secret, uses) =>
  subtle.importKey('pkcs8', cat(unhex(PKCS8[name]), secret), { name }, false, uses);
// Points of small order, without the highest bit: u on Curve25519, y on Ed25519.
const ZERO_ONE_P = ['0000', '0100', 'ecff', 'edff', 'eeff'].map(
  (start) => start.padEnd(62, start.slice(2)) + (start.endsWith('ff') ? '7f' : '00'));
const LOW_U = new Set([...ZERO_ONE_P,
  'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
  '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157']);
const LOW_Y = new Set([...ZERO_ONE_P,
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05']);
const isLow = (key, of) => of.has(hex([...key.subarray(0, 31), key[31] & 127]));

async function exchange(secret, theirs) {
  const key = await privateKey('X25519', secret, ['deriveBits']);
  try {
    const other = await subtle.importKey('raw', theirs, { name: 'X25519' }, false, []);
    return new Uint8Array(await subtle.deriveBits({ name: 'X25519', public: other }, key, 256));
  } catch {
    throw new Refusal('rule', 'a public key of low order');
  }
}
const publicOf = (secret) => exchange(secret, cat(u8(9), new Uint8Array(31)));

/** One key a label, from one exchange. */
async function agree(secret, theirs, ...labels) {
  rule(isLow(theirs, LOW_U), 'a public key of low order');
  const shared = await subtle.importKey(
    'raw', await exchange(secret, theirs), 'HKDF', false, ['deriveBits']);
  const hkdf = { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(32) };
  return Promise.all(labels.map(async (info) =>
    new Uint8Array(await subtle.deriveBits({ ...hkdf, info }, shared, 256))));
}

async function expand(seed, info, size) {
  const hmac = { name: 'HMAC', hash: 'SHA-256' };
  const key = await subtle.importKey('raw', seed, hmac, false, ['sign']);
  let last = new Uint8Array(0), out = last;
  for (let i = 1; out.length < size; i++) {
    last = new Uint8Array(await subtle.sign('HMAC', key, cat(last, info, u8(i))));
    out = cat(out, last);
  }
  return out.subarray(0, size);
}

/** The keystream of a seed under a label: a function of its first word and how many. */
export async function stream(seed, label, suite = 1) {
  const info = cat(u8(suite), label);
  if (suite === 2) {
    const state = await expand(seed, info, 44);
    return async (first, words) => chacha20(state, first / 8, 8 * words);
  }
  const both = await expand(seed, info, 28), nonce = both.subarray(16);
  const key = await subtle.importKey('raw', both.subarray(0, 16), 'AES-CTR', false, ['encrypt']);
  return async (first, words) => { // a seed ends before the low 32 bits of the counter do
    local(first + words > 2 ** 33 - 8, 'a seed gives no more words');
    const counter = cat(nonce, u32(2 + first / 2));
    const mode = { name: 'AES-CTR', counter, length: 64 };
    return new Uint8Array(await subtle.encrypt(mode, key, new Uint8Array(8 * words)));
  };
}

function chacha20(state, block, size) { // WebCrypto has none
  const out = new Uint32Array(Math.ceil(size / 64) * 16), x = new Uint32Array(16);
  const start = new Uint32Array(cat(ascii('expand 32-byte k'), state.subarray(0, 32),
    new Uint8Array(4), state.subarray(32)).buffer);
  const step = (to, by, mixed, turn) => {
    x[to] += x[by];
    const mix = x[mixed] ^ x[to];
    x[mixed] = (mix << turn) | (mix >>> (32 - turn));
  };
  const quarter = (a, b, c, d) => {
    step(a, b, d, 16);
    step(c, d, b, 12);
    step(a, b, d, 8);
    step(c, d, b, 7);
  };
  for (let at = 0; at < out.length; at += 16) {
    start[12] = block + at / 16;
    x.set(start);
    for (let twice = 0; twice < 10; twice++) {
      for (let i = 0; i < 4; i++) quarter(i, 4 + i, 8 + i, 12 + i);
      for (let i = 0; i < 4; i++)
        quarter(i, 4 + ((i + 1) & 3), 8 + ((i + 2) & 3), 12 + ((i + 3) & 3));
    }
    for (let i = 0; i < 16; i++) out[at + i] = x[i] + start[i];
  }
  return new Uint8Array(out.buffer, 0, size);
}

const signed = (label, data) => cat(opaque(label), data);
const sign = async (secret, label, data) => new Uint8Array(
  await subtle.sign('Ed25519', await privateKey('Ed25519', secret, ['sign']), signed(label, data)));
export async function verify(key, label, data, signature) {
  try {
    if (isLow(key, LOW_Y)) return false;
    const known = await subtle.importKey('raw', key, { name: 'Ed25519' }, false, ['verify']);
    return await subtle.verify('Ed25519', known, signature, signed(label, data));
  } catch {
    return false;
  }
}

// GF(2^16), modulus 0x1100B, generator 2
const EXP = new Uint16Array(2 * 65535), LOG = new Uint16Array(65536);
for (let i = 0, x = 1; i < 65535; i++, x = (x << 1) ^ (x & 0x8000 ? 0x1100b : 0)) {
  EXP[i] = EXP[i + 65535] = x;
  LOG[x] = i;
}

/** Shares of 64 bytes for holders 1 to `holders`. */
function split(secret, coefficients, holders) {
  const rows = cat(coefficients, secret), view = new DataView(rows.buffer);
  return Array.from({ length: holders }, (_, place) => {
    const share = new DataView(new ArrayBuffer(64)), power = LOG[place + 1];
    for (let at = 0; at < 64; at += 2) {
      let sum = 0;
      for (let row = at; row < rows.length; row += 64)
        sum = (sum && EXP[LOG[sum] + power]) ^ view.getUint16(row);
      share.setUint16(at, sum);
    }
    return new Uint8Array(share.buffer);
  });
}

// What is agreed, and its labels

const NAME = ascii('secagg/1 bonawitz'), NO_CORRUPT = 2 ** 32 - 1;
const allowed = (make, ...given) => {
  try {
    return make(...given);
  } catch (error) {
    throw error instanceof RangeError ? new Refusal('local', error.message) : error;
  }
};
export class Agreement {
  /** Of the struct's fields; `rates` null or {corrupt, dropout} in text. R8 */
  constructor({ session, round = 0, clients, threshold = null, minimum_survivors, words, suite = 1,
    active = false, corrupt = null, rates = null, public: known }) {
    Object.assign(this, { clients, threshold, minimum: minimum_survivors, words, suite, active });
    const within = (value, low, high) => local(!(value >= low && value <= high), 'out of limits');
    within(clients, 2, 2 ** 32 - 1);
    within(minimum_survivors, 2, clients);
    within(words, 1, 2 ** 33 - 9);
    within(suite, 1, 2);
    local((threshold === null) === (rates === null), 'either a threshold or rates');
    if (threshold !== null) within(threshold, 2, Math.min(clients, 65535));
    if (corrupt !== null) within(corrupt, 0, clients - 1);
    local(corrupt !== null && !(active && rates === null), 'corrupt needs active and a threshold');
    this.rates = rates && [rates.corrupt, rates.dropout].map((text) => allowed(fraction, text));
    const third = Math.floor(clients / 3);
    this.corrupt = !active ? 0 : this.rates ? times(this.rates[0], clients) : corrupt ?? third;
    local(active && threshold && 2 * threshold <= clients + this.corrupt, 'no majority');
    this.plans = new Map();
    this.plan(clients);
    const said = ([p, q]) => opaque(ascii(q === 1n ? `${p}` : `${p}/${q}`));
    this.header = cat(session, u32(round));
    this.params = cat(u32(clients), u32(threshold ?? 0), u32(minimum_survivors), u64(words),
      u8(suite), u8(active ? 1 : 0), u32(corrupt === third ? NO_CORRUPT : corrupt ?? NO_CORRUPT),
      opaque(this.rates ? cat(...this.rates.map(said)) : cat()));
    this.bytes = cat(this.header, this.params, known);
  }
  /** Out of the fields `clients` to `rates` of the struct. */
  static read(session, params, known) {
    const r = new Reader(params), text = (data) => new TextDecoder().decode(data);
    const [clients, threshold, minimum_survivors, words] = [4, 4, 4, 8].map((n) => r.number(n));
    const [suite, active, corrupt, rest] = [r.u8(), r.u8(), r.u32(), r.opaque()];
    r.finish();
    let rates = null;
    if (rest.length) {
      const r = new Reader(rest);
      rates = { corrupt: text(r.opaque()), dropout: text(r.opaque()) };
      r.finish();
    }
    const found = new Agreement({ session, clients, threshold: threshold || null, words, suite,
      minimum_survivors, active: active > 0, corrupt: corrupt === NO_CORRUPT ? null : corrupt,
      rates, public: known });
    decode(!same(found.params, params), 'parameters in another encoding');
    return found;
  }
  plan(size) {
    if (!this.plans.has(size)) {
      const found = this.rates
        ? allowed(planGraph, size, ...this.rates, this.active, this.clients)
        : complete(this.threshold);
      local(found.degree === null && size > 65535, 'too many clients for a complete graph');
      this.plans.set(size, found);
    }
    return this.plans.get(size);
  }
  needed(plan) {
    const several = this.active && this.rates ? majority(this.clients, this.corrupt) : 0;
    return Math.max(this.minimum, plan.quorum, several);
  }
}

// The client

const FRAME = 2 ** 15; // words
export class Client {
  /**
   * `identity`: where clients sign, our secret Ed25519 key; `identities`: a Map of all public ones.
   * `entropy`: 96 bytes, for tests alone.
   */
  constructor(agreement, me, { identity = null, identities = null, entropy = null } = {}) {
    Object.assign(this, { agreement, me, identity, identities: identities ?? new Map() });
    const drawn = entropy ?? globalThis.crypto.getRandomValues(new Uint8Array(96));
    [this.maskKey, this.sealKey, this.drawSeed] = [0, 32, 64].map((at) => drawn.slice(at, at + 32));
    this.next = null; // the name of the step that waits, if one does
  }

  head(type) { return cat(u8(1), u8(type), this.agreement.header); }
  message(type, ...fields) { return checked(this.head(type), u32(this.me), ...fields); }
  label(usage, ...about) {
    return cat(NAME, ascii(` ${usage} `), this.context, this.agreement.header, ...about);
  }
  pair(peer) { return this.label('pair', ...sorted([this.me, peer]).map(u32)); }
  /** The label of a box from one end to the other, of the two mask keys as they are advertised. */
  box(from, to) {
    return this.label('seal', u32(from), u32(to), this.keyOf(from), this.keyOf(to));
  }
  keyOf(client) { return this.roster.get(client).mask; }
  outside(from, to) { return cat(this.head(3), u32(from), u32(to)); }

  open(data, type) { // R1 to R3
    const r = new Reader(data);
    decode(r.u8() !== 1, 'another version');
    decode(r.u8() !== type, 'a message of another type');
    decode(!same(r.take(20), this.agreement.header), 'a message of another session or round');
    return r;
  }

  /** Enter the round: an `Advertise`. */
  async join() {
    const { agreement, me, identity, identities } = this;
    const keys = [...identities.values()].map(hex);
    const secrets = [this.maskKey, this.sealKey, this.drawSeed];
    local(agreement.active !== (identity !== null) || agreement.active !== identities.size > 0,
      'identity and identities are given where clients sign, and only there');
    local(new Set(keys).size < keys.length, 'two clients have one identity');
    local([...identities.values()].some((key) => isLow(key, LOW_Y)), 'an identity of small order');
    local(new Set(secrets.map(hex)).size < 3, 'the entropy repeats itself'); // R9
    this.public = { mask: await publicOf(this.maskKey), seal: await publicOf(this.sealKey) };
    this.public.both = cat(this.public.mask, this.public.seal);
    this.public.signature = cat();
    if (identity) {
      const label = await this.advertised(me), own = identities.get(me) ?? cat();
      this.public.signature = await sign(identity, label, this.public.both);
      local(!await verify(own, label, this.public.both, this.public.signature), 'not our identity');
    }
    this.next = 'onRoster';
    return this.message(1, this.public.both, this.public.signature);
  }
  async advertised(client) {
    return cat(NAME, ascii(' keys '), await sha256(this.agreement.bytes), ascii(' '), u32(client));
  }

  /**
   * Answer the server's next message, in order Roster, ShareBoxes, Survivors, Signatures.
   *
   * `input` is asked for the words, 8 bytes each, once the boxes were found good. Who refuses is
   * out of the round.
   */
  async answer(data, input = null) {
    const step = this.next;
    this.next = null;
    local(step === null, 'this client is done');
    return this[step](data, input);
  }

  async onRoster(data) {
    const { agreement, me } = this, r = this.open(data, 2);
    const tag = r.take(8), size = r.u32(), digest = r.take(32), listed = r.rest.subarray(4);
    const roster = r.list((r) => {
      const both = r.take(64);
      return { both, mask: both.subarray(0, 32), seal: both.subarray(32),
        signature: r.take(agreement.active ? 64 : 0) };
    });
    r.finish();
    const whole = roster.size >= size, own = roster.get(me);
    decode(whole && (size < roster.size || !same(await sha256(listed), digest)), 'R16');
    rule(!same(tag, (await sha256(agreement.bytes)).subarray(0, 8)), 'R15: another agreement');
    rule(!own || !same(own.both, this.public.both)
      || !same(own.signature, this.public.signature), 'R17: not our keys');
    rule(size > agreement.clients, 'R18: too many clients');
    rule(size < agreement.minimum, 'R19: too few clients');
    let plan;
    try {
      plan = agreement.plan(size);
    } catch {
      throw new Refusal('rule', 'R19: no plan for so many clients');
    }
    rule(size < agreement.needed(plan), 'R19: too few clients');
    rule((plan.degree === null || plan.picks) && !whole, 'R20: not everybody is listed');
    if (plan.degree === null)
      rule(2 * plan.threshold <= roster.size + agreement.corrupt, 'R21: no majority');
    else rule(!plan.picks && roster.size !== plan.degree + 1, 'R22: not our neighbours');
    const keys = [...roster.values()].flatMap(({ mask, seal }) => [mask, seal]);
    rule(new Set(keys.map(hex)).size < keys.length, 'R23: one key twice');
    rule(keys.some((key) => isLow(key, LOW_U)), 'R24: a key of low order');
    if (agreement.active)
      for (const [client, { both, signature }] of roster) {
        const key = this.identities.get(client);
        rule(!key || !await verify(key, await this.advertised(client), both, signature), 'R25');
      }

    this.context = await sha256(NAME, agreement.bytes, digest);
    Object.assign(this, { roster, size, plan, members: sorted(roster.keys()) });
    const others = this.members.filter((client) => client !== me);
    const words = await stream(this.drawSeed, this.label('draw', u32(me))), pool = [0];
    const draw = async (bytes) => {
      const at = pool[0], skipped = at % 8; // a stream is entered at every eighth word
      pool[0] += Math.ceil(bytes / 8);
      return (await words(at - skipped, skipped + Math.ceil(bytes / 8)))
        .subarray(8 * skipped, 8 * skipped + bytes);
    };
    this.selfSeed = await draw(32);
    let holders = plan.degree === null ? this.members : others;
    if (plan.picks) {
      const drawn = await draw(16 * others.length);
      const order = others.map((client, i) => [hex(drawn.subarray(16 * i, 16 * i + 16)), client]);
      order.sort(([a], [b]) => (a < b ? -1 : 1));
      holders = sorted(order.slice(0, plan.degree).map(([, client]) => client));
    }
    const coefficients = await draw(64 * (plan.threshold - 1));
    const shares = split(cat(this.selfSeed, this.maskKey), coefficients, holders.length);
    const nonces = await draw(16 * holders.length), boxes = new Map(); // 12 of each 16 are used
    this.openings = new Map();
    this.shares = new Map();
    await Promise.all(holders.map(async (peer, i) => {
      if (peer === me) return this.shares.set(me, shares[i]);
      const place = i - (plan.degree === null && peer > me ? 1 : 0);
      const nonce = nonces.subarray(16 * place, 16 * place + 12);
      const [sealing, opening] = await agree(
        this.sealKey, roster.get(peer).seal, this.box(me, peer), this.box(peer, me));
      this.openings.set(peer, opening);
      const key = await subtle.importKey('raw', sealing, 'AES-GCM', false, ['encrypt']);
      const mode = { name: 'AES-GCM', iv: nonce, additionalData: this.outside(me, peer) };
      const sealed = new Uint8Array(await subtle.encrypt(mode, key, shares[i]));
      return boxes.set(peer, cat(nonce, sealed));
    }));
    this.near = new Set(boxes.keys()); // and who picked us, once their boxes came
    this.next = 'onBoxes';
    return [await this.message(3, tag, list(boxes))];
  }

  async onBoxes(data, input) {
    const { agreement, me, plan, members } = this, r = this.open(data, 4);
    const recipient = r.u32(), boxes = r.list((r) => r.take(92));
    const named = plan.picks ? r.subset(members).clients : null;
    r.finish();
    const circle = plan.degree !== null && !plan.picks;
    rule(recipient !== me, 'R30: boxes for another');
    const senders = [...boxes.keys()];
    rule(senders.some((peer) => peer === me || !this.roster.has(peer)), 'R31: a stranger');
    rule(circle && boxes.size < plan.threshold, 'R35: too few neighbours');
    const shared = named ?? new Set([...senders, me]);
    rule(!circle && shared.size < agreement.needed(plan), 'R32: too few have shared');
    rule(!shared.has(me) || senders.some((peer) => !shared.has(peer)), 'R36');
    const shut = new Set();
    await Promise.all([...boxes].map(async ([peer, box]) => {
      const theirs = this.roster.get(peer).seal;
      const opening = this.openings.get(peer)
        ?? (await agree(this.sealKey, theirs, this.box(peer, me)))[0];
      const key = await subtle.importKey('raw', opening, 'AES-GCM', false, ['decrypt']);
      const additionalData = this.outside(peer, me);
      const mode = { name: 'AES-GCM', iv: box.subarray(0, 12), additionalData };
      try {
        this.shares.set(peer, new Uint8Array(await subtle.decrypt(mode, key, box.subarray(12))));
      } catch {
        shut.add(peer);
      }
    }));
    rule(circle && shut.size > 0, 'R34: a box does not open');
    rule(plan.degree === null && this.shares.size < agreement.needed(plan), 'R33: too few open');
    const known = [...new Set([...this.near, ...senders])];
    const includes = (peer) => shared.has(peer) && (plan.degree === null || !shut.has(peer));
    this.included = new Set((plan.picks ? known : senders).filter(includes));
    this.silent = new Set(known.filter((peer) => !this.included.has(peer)));

    const own = await stream(this.selfSeed, this.label('self', u32(me)), agreement.suite);
    const masks = [[own, false]];
    for (const peer of sorted(this.included)) {
      const [seed] = await agree(this.maskKey, this.keyOf(peer), this.pair(peer));
      masks.push([await stream(seed, this.pair(peer), agreement.suite), me < peer]);
    }
    const given = await input();
    local(given.length !== 8 * agreement.words, 'the input is of another length than agreed');
    const bytes = cat(given, u8(1), new Uint8Array(7)), frames = []; // the check word
    for (let at = 0; 8 * at < bytes.length; at += FRAME) {
      const frame = bytes.slice(8 * at, 8 * (at + FRAME));
      for (const [words, subtract] of masks)
        add(frame, await words(at, frame.length / 8), subtract);
      frames.push(await this.message(5, u32(at / FRAME), frame));
    }
    this.next = 'onSurvivors';
    if (plan.picks) {
      const set = subset(this.included, members);
      const mark = await sign(this.identity, this.label('included', u32(me)), set);
      frames.push(await this.message(10, set, mark));
    }
    return frames;
  }

  async onSurvivors(data) {
    const { agreement, me, plan, members } = this, r = this.open(data, 6);
    const { clients: alive, bytes } = r.subset(members);
    const unseen = members.length < this.size ? r.u32() : 0;
    const mark = (r) => ({ set: r.subset(members), signature: r.take(64) });
    const marks = plan.picks ? r.list(mark) : null;
    r.finish();
    rule(!alive.has(me), 'R42: we are named as gone');
    rule(alive.size + unseen < agreement.needed(plan), 'R43: too few survivors');
    rule([...alive].some((client) => plan.degree === null
      ? client !== me && !this.included.has(client) : this.silent.has(client)), 'R44');
    const near = [...alive].filter((client) => this.included.has(client));
    rule(unseen > this.size - members.length, 'R45: more survivors than clients');
    rule(plan.degree !== null && !plan.picks && near.length < plan.threshold, 'R45');
    if (plan.picks)
      for (const client of near) {
        const found = marks.get(client), label = this.label('included', u32(client));
        rule(!found || !found.set.clients.has(me) || !await verify(
          this.identities.get(client), label, found.set.bytes, found.signature), 'R51');
      }
    this.alive = alive;
    if (!agreement.active) return this.reveal();
    this.named = bytes;
    this.next = 'onSignatures';
    return [await this.message(8, await sign(this.identity, this.label('survivors'), bytes))];
  }

  async onSignatures(data) {
    const r = this.open(data, 9), signatures = r.list((r) => r.take(64));
    r.finish();
    let valid = 1; // our own
    for (const [client, signature] of signatures) {
      if (client === this.me || !this.alive.has(client) || valid >= this.plan.quorum) continue;
      const key = this.identities.get(client);
      if (await verify(key, this.label('survivors'), this.named, signature)) valid++;
    }
    rule(valid < this.plan.quorum, 'R52: too few have signed what we signed');
    return this.reveal();
  }

  async reveal() { // of each peer one half, never both
    const half = (peer, share) => share.slice(...(this.alive.has(peer) ? [0, 32] : [32]));
    const halves = new Map([...this.shares].map(([peer, share]) => [peer, half(peer, share)]));
    this.shares = this.selfSeed = this.maskKey = this.sealKey = this.drawSeed = null;
    return [await this.message(7, list(halves))];
  }
}

/** Add words to words, or subtract, modulo 2^64. Memory is little-endian wherever a page runs. */
function add(frame, keystream, subtract) {
  const to = new Uint32Array(frame.buffer), by = new Uint32Array(keystream.buffer);
  for (let i = 0; i < to.length; i += 2) {
    const low = subtract ? to[i] - by[i] : to[i] + by[i];
    to[i + 1] += (subtract ? -by[i + 1] : by[i + 1]) + Math.floor(low / 2 ** 32);
    to[i] = low;
  }
}
