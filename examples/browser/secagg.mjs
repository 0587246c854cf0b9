// A node of `secagg serve` in a page, or in Node: two modules, no dependencies, no build.
//
//     import { join, indexedDbBurns } from './secagg.mjs';
//     await join('https://sums.example.org', token, train, { burns: indexedDbBurns() });
//
// What is masked is docs/protocols/codec.md, what carries it docs/network.md; bonawitz.mjs masks.

import { Agreement, Client, Reader, Refusal, ascii, cat, hex, opaque, same, sha256, stream, u8, u32,
  u64, unhex, verify } from './bonawitz.mjs';
import { fraction, times } from './graph.mjs';

const STAGES = ['advertise', 'share', 'mask', 'sign', 'reveal'];
const AWAITS = { onRoster: 'share', onBoxes: 'mask', onSurvivors: 'reveal' };
const LARGEST_PROPOSAL = 2 ** 22, LARGEST_TASK = 2 ** 26; // bytes
const LARGEST_MODEL = 2 ** 31; // where a proposal does not tell the size of what is trained
const AT_ONCE = 4, TRIES = 6; // tasks of different sums; calls to hand an answer in
const FAILURES = ['raised', 'replied', 'arrays', 'metrics', 'weight', 'update'];

/** What the server may hear: its text holds no data. */
export class Declined extends Error {
  constructor(message, status = null) {
    super(message);
    this.status = status; // of the server's answer, where that is why
  }
}
const decline = (wrong, why) => { if (wrong) throw new Declined(why); };

// The codec

const BLOCK = 2 ** 15; // words whose integers are rounded together
const STATISTICS = { clip: 65536, levels: 2 ** 46 };
const ROUNDING = ascii('secagg 1 stochastic rounding');
const size = (shape) => shape.reduce((product, length) => product * length, 1);
function isStatistic(name) {
  const words = name.split(/[./]/), last = words.pop();
  return ['running_mean', 'moving_mean', 'running_var', 'moving_variance'].includes(last)
    || (['mean', 'var'].includes(last) && words.includes('batch_stats'));
}

function wellFormed({ purpose, session, model_digest, shapes }, average) {
  const whole = (value, low, high) => Number.isSafeInteger(value) && value >= low && value <= high;
  const named = (pairs, good) => Array.isArray(pairs)
    && pairs.every(([name, value]) => typeof name === 'string' && good(value));
  return /^[ -~]+$/.test(purpose) && /^[0-9a-f]{32}$/.test(session)
    && /^[0-9a-f]{64}$/.test(model_digest)
    && named(shapes, (shape) => Array.isArray(shape) && shape.every((n) => whole(n, 0, 2 ** 33)))
    && named(average.metrics, (bound) => bound > 0) && average.clip > 0
    && whole(average.bits, 2, 32) && whole(average.max_weight, 1, 2 ** 53 - 1);
}

/** A proposal out of its bytes, with its agreement and its layout; a graph is planned for neither
 * more clients than `most` nor before they are counted. */
export async function readProposal(bytes, most) {
  decline(bytes.length > LARGEST_PROPOSAL, 'the proposal is too long');
  let said;
  try {
    said = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw new Declined('the request holds no proposal');
  }
  decline(said?.version !== 2, 'a proposal of another version');
  decline(said.protocol !== 'bonawitz', 'a page sums under bonawitz alone');
  decline(said.noise !== undefined || !said.average, 'a page cannot add noise');
  decline(said.versions !== undefined, 'a page brings updates of one version of the model');
  const { average, shapes } = said;
  decline(average.by_array !== undefined, 'a page brings all arrays of an update');
  decline(average.compress !== undefined, 'a page sends whole updates');
  decline(!wellFormed(said, average), 'not a proposal');
  const entries = shapes.reduce((sum, [, shape]) => sum + size(shape), 0);
  const wide = shapes.filter(([name]) => isStatistic(name));
  const statistics = wide.reduce((sum, [, shape]) => sum + size(shape), 0);
  const { max_weight, clip, bits, metrics } = average;
  const segments = [
    { name: 'update', entries: entries - statistics, clip, bits },
    { name: 'statistic', entries: statistics, maximum: 2 * STATISTICS.levels },
    { name: 'clipped', entries: entries && 1, maximum: Math.max(entries, 1) },
    { name: 'weight', entries: 1, maximum: max_weight },
    { name: 'clamped', entries: 1 + metrics.length, maximum: 1 },
    { name: 'missing', entries: metrics.length, maximum: 1 },
    { name: 'failed', entries: FAILURES.length, maximum: 1 },
    ...metrics.map(([name, most]) =>
      ({ name: `metric ${name}`, entries: 1, clip: most, bits: 32 })),
  ].filter((segment) => segment.entries > 0);
  const params = unhex(said.params);
  decline(new Reader(params).u32() > most, `this node's policy refuses (maximum_cohort ${most})`);
  const agreement = Agreement.read(unhex(said.session), params, await sha256(bytes));
  for (const segment of segments) place(segment, agreement.clients);
  const words = segments.reduce((sum, segment) => sum + segment.words, 0);
  decline(words !== agreement.words, `params are for ${agreement.words} words, not ${words}`);
  return { ...said, agreement, entries, segments };
}

/** Lanes of a segment: as few words as hold every total, and of those the widest lanes. */
function place(segment, clients) {
  const one = segment.maximum ?? 2 ** (segment.bits - 1) - 1, limit = BigInt(clients) * BigInt(one);
  let lanes = 8;
  while (lanes > 0 && limit >= 1n << BigInt(Math.floor(64 / lanes) - 1)) lanes--;
  decline(lanes === 0, `${segment.name} does not fit a word`);
  segment.words = Math.ceil(segment.entries / lanes);
  segment.lanes = Math.ceil(segment.entries / segment.words);
}

/**
 * The words of what a node brings: 8 bytes each.
 *
 * `own` is {update, weight, metrics}, or the word of FAILURES that says why there is none.
 * `seeds` draws 32 bytes for each segment that is rounded; for tests alone.
 */
export async function encode(proposal, own, seeds = random) {
  const { average, entries, shapes, segments } = proposal;
  const fits = ({ update }) => update.length === entries && update.every(Number.isFinite);
  if (!FAILURES.includes(own) && !fits(own)) own = 'update';
  const failed = FAILURES.includes(own);
  const { update, weight, metrics } = failed
    ? { update: new Float64Array(entries), weight: 0, metrics: {} } : own;
  const clip = (value, most) => Math.min(Math.max(value, -most), most);
  const held = Math.min(Math.max(weight, 0), average.max_weight), part = held / average.max_weight;
  const values = { weight: [held], clamped: [held !== weight], missing: [], clipped: [0],
    failed: FAILURES.map((word) => word === own), update: [], statistic: [] };
  let at = 0;
  for (const [name, shape] of shapes) {
    const wide = isStatistic(name), most = wide ? STATISTICS.clip : average.clip;
    for (const end = at + size(shape); at < end; at++) {
      const clipped = clip(update[at], most), scaled = clipped * part;
      if (clipped !== update[at]) values.clipped[0]++;
      if (wide) values.statistic.push(nearest((scaled / most + 1) * STATISTICS.levels));
      else values.update.push(scaled);
    }
  }
  for (const [name, bound] of average.metrics) {
    const value = Object.hasOwn(metrics, name) ? Number(metrics[name]) : NaN;
    const missing = Number.isNaN(value);
    const clipped = missing ? 0 : clip(value, bound);
    values.missing.push(missing);
    values.clamped.push(!missing && clipped !== value);
    values[`metric ${name}`] = [clipped * part];
  }
  if (failed) for (const name of ['clamped', 'missing']) values[name].fill(0);
  const parts = [];
  for (const segment of segments) {
    const drawn = segment.clip ? seeds(32) : null; // in the order of the segments
    parts.push(await pack(segment, values[segment.name], drawn));
  }
  return cat(...parts);
}

const random = (bytes) => globalThis.crypto.getRandomValues(new Uint8Array(bytes));
const nearest = (value) => { // ties to even
  const down = Math.floor(value), rest = value - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down;
};

/** Integers of a segment, rounded if they have a clip, in its lanes: planar, the last on top. */
async function pack(segment, values, seed) {
  const { entries, lanes, words } = segment, out = new Uint32Array(2 * words);
  const width = Math.floor(64 / lanes), round = segment.clip ? rounder(segment) : null;
  const drawn = seed && await stream(seed, ROUNDING);
  const most = Math.ceil(entries / 2) + lanes * Math.ceil(words / BLOCK);
  const pool = seed && new Uint32Array((await drawn(0, most)).buffer);
  let used = 0; // words of the pool; a run of odd length leaves half of one
  for (let from = 0; from < words; from += BLOCK) {
    for (let lane = lanes - 1; lane >= 0; lane--) {
      const begin = lane * words + from;
      const end = Math.min(lane * words + Math.min(from + BLOCK, words), entries);
      for (let i = from; i < Math.min(from + BLOCK, words); i++) shift(out, 2 * i, width);
      for (let entry = begin; entry < end; entry++) {
        const whole = round
          ? round(values[entry], pool[2 * used + entry - begin]) : Number(values[entry]);
        const to = 2 * (entry - lane * words), low = out[to] + (whole >>> 0);
        out[to + 1] += Math.floor(whole / 2 ** 32) + (low >= 2 ** 32 ? 1 : 0);
        out[to] = low;
      }
      used += Math.ceil(Math.max(end - begin, 0) / 2);
    }
  }
  return new Uint8Array(out.buffer);
}

function shift(words, at, width) {
  if (width >= 32) words[at + 1] = width === 64 ? 0 : words[at];
  else words[at + 1] = (words[at + 1] << width) | (words[at] >>> (32 - width));
  words[at] = width >= 32 ? 0 : words[at] << width;
}

/** A float as an integer: to 2^-fraction of a step as doubles do, then up or down by chance. */
function rounder({ clip, bits }) {
  const levels = 2 ** (bits - 1) - 1, factor = levels / clip, fraction = Math.min(32, 50 - bits);
  const fine = 1.5 * 2 ** (52 - fraction), scale = 2 ** fraction;
  return (value, drawn) => {
    const held = Math.min(Math.max(value * factor, -levels), levels);
    return Math.floor((((held + fine) - fine) * scale + (drawn >>> (32 - fraction))) / scale);
  };
}

// Models

const TYPES = { float32: Float32Array, float64: Float64Array, bool: Uint8Array, int8: Int8Array,
  int16: Int16Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array,
  uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array };

/** The arrays of a model by name, {type, shape, values}, and its digest. */
export async function readModel(bytes) {
  const r = new Reader(bytes), model = new Map(), parts = [], text = new TextDecoder();
  while (r.rest.length) {
    const name = r.opaque(), type = text.decode(r.opaque());
    const shape = Array.from({ length: r.u8() }, () => r.u32());
    decline(!Object.hasOwn(TYPES, type), `an array of type ${type}`);
    const raw = r.take(size(shape) * TYPES[type].BYTES_PER_ELEMENT);
    model.set(text.decode(name), { type, shape, values: new TYPES[type](raw.slice().buffer) });
    const tuple = `(${shape.join(', ')}${shape.length === 1 ? ',' : ''})`; // as Python writes it
    parts.push(...[name, ascii(type), ascii(tuple), raw].map(opaque));
  }
  return { model, digest: await sha256(...parts) };
}

/** What the program moved, flat, in float32 unless an array has more. */
function flatten(proposal, start, after) {
  const wide = proposal.shapes.some(([name]) => start.get(name).type === 'float64');
  const flat = new (wide ? Float64Array : Float32Array)(proposal.entries);
  let at = 0;
  for (const [name, shape] of proposal.shapes) {
    if (after.get(name)?.length !== size(shape)) return null;
    flat.set(after.get(name), at);
    start.get(name).values.forEach((value, i) => { flat[at + i] -= value; });
    at += size(shape);
  }
  return flat;
}

// The policy

export const POLICY = Object.freeze({ // as the lines of policy.toml, docs/flower.md
  graphs: ['complete'], minimum_cohort: 3, maximum_cohort: 1000, minimum_threshold: 2,
  corrupt_fraction: 0.05, sums_per_model: 4, clip: null, max_weight: null, metrics: null,
  server: null,
});

function checkPolicy(policy, { agreement, average }) {
  const { clients, minimum } = agreement;
  const refuse = (wrong, line) => decline(wrong, `this node's policy refuses (${line})`);
  refuse(agreement.active, 'active: a page has no roster of identities');
  refuse(minimum < policy.minimum_cohort, `minimum_cohort ${policy.minimum_cohort}`);
  refuse(agreement.rates && !policy.graphs.includes('sparse'), 'graphs');
  const corrupt = times(fraction(String(policy.corrupt_fraction)), clients);
  const stands = agreement.rates ? times(agreement.rates[0], clients) : agreement.threshold - 1;
  refuse(stands < corrupt, 'corrupt_fraction');
  for (let n = minimum; policy.minimum_threshold > 2 && n <= clients; n++) {
    let threshold = Infinity; // where there is no plan for so many, no sum of them begins
    try { threshold = agreement.plan(n).threshold; } catch { /* as above */ }
    refuse(threshold < policy.minimum_threshold, `minimum_threshold ${policy.minimum_threshold}`);
  }
  refuse(policy.clip !== null && average.clip !== policy.clip, `clip ${policy.clip}`);
  refuse(policy.max_weight !== null && average.max_weight !== policy.max_weight, 'max_weight');
  for (const [name, bound] of policy.metrics ? average.metrics : [])
    refuse(policy.metrics[name] !== bound, 'metrics');
}

/** Counts in memory: gone with the process. For tests, and where a page keeps nothing. */
export function memoryBurns() {
  const counts = new Map();
  return async (place, most) => {
    const count = counts.get(place) ?? 0;
    if (count < most) counts.set(place, count + 1);
    return count < most;
  };
}

/** Counts in the profile's IndexedDB, for all tabs; README.md says what they cannot stop. */
export function indexedDbBurns(name = 'secagg') {
  const opened = new Promise((resolve, reject) => {
    const asked = indexedDB.open(name, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore('burnt');
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return async (place, most) => {
    const change = (await opened).transaction('burnt', 'readwrite', { durability: 'strict' });
    const burnt = change.objectStore('burnt'), asked = burnt.get(place);
    let free = false;
    asked.onsuccess = () => {
      free = (asked.result ?? 0) < most;
      if (free) burnt.put((asked.result ?? 0) + 1, place);
    };
    return new Promise((resolve, reject) => {
      change.oncomplete = () => resolve(free);
      change.onabort = change.onerror = () => reject(change.error);
    });
  };
}

// The wire

export function readRequest(bytes) {
  const r = new Reader(bytes);
  decline(r.u8() !== 1 || r.u8() !== 0x40, 'not a request of this version');
  const stage = STAGES[r.u8()], client = r.u32();
  decline(stage === undefined, 'a request of no stage');
  const fields = Array.from({ length: 4 }, () => r.opaque()), signature = r.opaque();
  r.finish();
  const [proposal, message] = fields; // and two that ask ahead of a proposal, which we let be
  const signed = cat(...[ascii(`${stage} ${client}`), ...fields].map(opaque));
  return { stage, client, proposal, message, signature, signed };
}

export const writeAnswer = (messages) =>
  cat(u8(1), u8(0x41), u64(0), opaque(cat()), opaque(cat()), u32(messages.length),
    ...messages.map(opaque)); // nothing ahead of a proposal, no examples

class Member {
  constructor(url, token, program, { policy = {}, burns, log = () => {}, signal }) {
    const { protocol, hostname, href } = new URL(url);
    const here = ['localhost', '127.0.0.1', '[::1]'].includes(hostname);
    if (protocol !== 'https:' && !(protocol === 'http:' && here))
      throw new TypeError(`${url} would send the token in clear: use https`);
    for (const line of Object.keys(policy))
      if (!Object.hasOwn(POLICY, line)) throw new TypeError(`unknown line ${line} of the policy`);
    if (!burns) throw new TypeError('burns is needed: indexedDbBurns(), or memoryBurns()');
    Object.assign(this, { url: href.replace(/\/$/, ''), token, program, burns, log, signal });
    this.policy = { ...POLICY, ...policy };
    this.busy = new Map(); // tasks by id, until they are answered
    this.clients = new Map(); // by session
  }

  async call(method, path, most, body = null) {
    const answer = await fetch(this.url + path, {
      method, body, signal: this.signal, cache: 'no-store', credentials: 'omit', redirect: 'error',
      referrerPolicy: 'no-referrer',
      headers: { Authorization: `Bearer ${this.token}`,
        ...(body && { 'Content-Type': 'application/octet-stream' }) },
    });
    const parts = [];
    let length = 0;
    for (const reader = answer.body?.getReader(); reader;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      length += value.length;
      if (length > most) await reader.cancel();
      decline(length > most, 'the server sends more than was asked for');
    }
    return { status: answer.status, data: cat(...parts) };
  }

  async ask() {
    const { status, data } = await this.call(
      'GET', `/v1/task?busy=${[...this.busy.keys()].join(',')}`, LARGEST_TASK);
    if (status === 204) return;
    if (status !== 200) throw refused(status, data);
    const id = hex(data.subarray(0, 16));
    decline(this.busy.has(id), 'the server hands out a task that is under way');
    this.busy.set(id, this.work(id, data.subarray(16)).finally(() => this.busy.delete(id)));
  }

  async work(id, data) {
    let stage = 'request', answer, path = '';
    try {
      const request = readRequest(data);
      ({ stage } = request);
      answer = writeAnswer(await this.answer(request));
    } catch (error) { // what the program raised went into the sum
      const known = error instanceof Declined || error instanceof Refusal;
      this.log(`${stage}: ${error.message}`);
      [path, answer] = ['/decline', ascii(
        known ? error.message : `this node cannot take part (${error.name})`).subarray(0, 900)];
    }
    try {
      await this.handIn(`/v1/task/${id}${path}`, answer);
      if (!path) this.log(`${stage}: answered`);
    } catch (error) {
      this.log(`${stage}: ${error.message}`);
    }
  }

  async handIn(path, body) {
    for (let tries = 1; ; tries++) {
      try {
        const { status, data } = await this.call('POST', path, 2 ** 16, body);
        if (status === 204) return;
        if (![429, 503].includes(status) || tries === TRIES) throw refused(status, data);
      } catch (error) {
        if (!(error instanceof TypeError) || tries === TRIES) throw error; // no line to the server
      }
      await pause(250 * 2 ** tries, this.signal);
    }
  }

  async answer({ stage, client, proposal: bytes, message, signature, signed }) {
    const { policy } = this, server = policy.server && unhex(policy.server);
    decline(server && !await verify(server, ascii('secagg/1 request'), signed, signature),
      "this node's policy refuses (server): the request lacks that server's signature");
    const proposal = await readProposal(bytes, policy.maximum_cohort);
    const { agreement, session } = proposal;
    checkPolicy(policy, proposal);
    if (stage === 'advertise') {
      const joined = new Client(agreement, client);
      const first = await joined.join();
      this.clients.set(session, joined);
      for (const old of [...this.clients.keys()].slice(0, -16)) this.clients.delete(old);
      return [first];
    }
    const party = this.clients.get(session);
    decline(!party || party.me !== client || !same(party.agreement.bytes, agreement.bytes),
      'no state of this sum: it began before this page did, or with another proposal');
    decline(stage !== AWAITS[party.next], `asked to ${stage}, this node is at another stage`);
    const model = stage === 'mask' ? await this.model(proposal) : null;
    try {
      return await party.answer(message, () => this.bring(proposal, model));
    } finally {
      if (!party.next) this.clients.delete(session);
    }
  }

  async model(proposal) {
    const { entries, shapes } = proposal;
    const most = shapes.length ? LARGEST_PROPOSAL + 16 * entries : LARGEST_MODEL;
    const { status, data } = await this.call('GET', `/v1/model/${proposal.model_digest}`, most);
    if (status !== 200) throw refused(status, data);
    const { model, digest } = await readModel(data);
    decline(hex(digest) !== proposal.model_digest, 'the model is not the one that was proposed');
    decline(!shapes.every(([name, shape]) => ['float32', 'float64'].includes(model.get(name)?.type)
      && model.get(name).values.length === size(shape)), 'a model of other arrays or floats');
    return model;
  }

  /** The program's words. From here on nothing is refused: a refusal would tell of the data. */
  async bring(proposal, model) {
    const place = hex(await sha256(opaque(ascii(proposal.purpose)), unhex(proposal.model_digest)));
    decline(!await this.burns(place, this.policy.sums_per_model),
      `this node's policy refuses (sums_per_model ${this.policy.sums_per_model})`);
    let own = 'raised';
    try {
      const given = new Map([...model].map(([name, { values }]) => [name, values.slice()]));
      const { arrays, numbers } = await this.program(given, proposal);
      const update = flatten(proposal, model, arrays ?? new Map()); // none where none are asked
      const weight = numbers[proposal.average.weighted_by];
      own = !update ? 'arrays' : !Number.isInteger(weight) ? 'weight'
        : { update, weight, metrics: numbers };
    } catch (error) {
      this.log(`this node brings nothing to this sum: ${error}`);
    }
    return encode(proposal, own).catch(() => encode(proposal, 'update'));
  }
}

const refused = (status, data) =>
  new Declined(`the server answers ${status}: ${new TextDecoder().decode(data.subarray(0, 300))}`,
    status);
const pause = (milliseconds, signal) => new Promise((resolve) => {
  const end = () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', end);
    resolve();
  };
  const timer = setTimeout(end, milliseconds);
  signal?.addEventListener('abort', end);
});

/**
 * Take part in the sums of a server until `signal` aborts, or the token is void.
 *
 * `program(model, proposal)` gets a Map of names to typed arrays, and gives {arrays, numbers}:
 * arrays of the same names and lengths, and the weight and metrics by name. It runs once a sum.
 * `burns` counts sums over one model; `policy` has lines of POLICY; `log` hears one line each.
 */
export async function join(url, token, program, options) {
  const member = new Member(url, token, program, options), { signal, log = () => {} } = options;
  for (let wait = 500; !signal?.aborted;) {
    try {
      if (member.busy.size >= AT_ONCE) await Promise.race(member.busy.values());
      else await member.ask();
      wait = 500;
    } catch (error) {
      if (signal?.aborted) break;
      if (error.status === 401) throw error;
      log(`${error.message}; trying again`);
      await pause(wait, signal);
      wait = Math.min(2 * wait, 30000);
    }
    await pause(200 * (member.busy.size === 0), signal);
  }
  await Promise.all(member.busy.values());
}
