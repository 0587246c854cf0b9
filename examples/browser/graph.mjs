// Who shares masks and secrets with whom: docs/protocols/bonawitz.md, "The graph" and "Picks".
// What allows no round raises RangeError.

const refuse = (wrong, message) => { if (wrong) throw new RangeError(message); };

export const fraction = (text) => { // exact, and reduced
  const found = /^(\d{1,20})(?:\.(\d{0,30}))?$|^(\d{1,30})\/([1-9]\d{0,29})$/.exec(text);
  refuse(!found, `${text} is no fraction`);
  const [, whole, part = '', over, under] = found;
  const [p, q] = over ? [over, under] : [whole + part, 10n ** BigInt(part.length)];
  const gcd = (a, b) => (b ? gcd(b, a % b) : a), by = gcd(BigInt(p), BigInt(q));
  refuse(BigInt(p) >= BigInt(q), `${text} is not below 1`);
  return [BigInt(p) / by, BigInt(q) / by];
};
export const times = ([p, q], count) => Number((p * BigInt(count)) / q);
export const majority = (clients, corrupt) => Math.floor((clients + corrupt) / 2) + 1;
export const complete = (threshold) =>
  ({ degree: null, threshold, quorum: threshold, picks: false });

const FACTORIALS = [0];
let lost = 0; // what the last addition rounded away
function lnFactorial(n) {
  for (let i = FACTORIALS.length; i <= n; i++) {
    const term = Math.log(i) - lost, sum = FACTORIALS[i - 1] + term;
    lost = sum - FACTORIALS[i - 1] - term;
    FACTORIALS.push(sum);
  }
  return FACTORIALS[n];
}
const lnChoose = (n, k) =>
  k < 0 || k > n ? -Infinity : lnFactorial(n) - lnFactorial(k) - lnFactorial(n - k);
const lnChance = (population, marked, drawn, hit) => lnChoose(marked, hit)
  + lnChoose(population - marked, drawn - hit) - lnChoose(population, drawn);

/** log2 of P[at least `least` of those drawn are marked]. */
function logTail(population, marked, drawn, least) {
  if (least <= Math.max(0, drawn - population + marked)) return 0;
  if (least > Math.min(marked, drawn)) return -Infinity;
  const terms = [];
  for (let hit = least; hit <= Math.min(marked, drawn); hit++)
    terms.push(lnChance(population, marked, drawn, hit));
  const top = Math.max(...terms);
  const sum = terms.reduce((all, term) => all + Math.exp(term - top), 0);
  return Math.min(0, (top + Math.log(sum)) / Math.LN2);
}

/** The first number from `low` to `high` for which `holds` does, which then does for all above. */
function first(low, high, holds) {
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The plan for `n` who advertised, of at most `agreed`; `g` and `d` as fractions. */
export function planGraph(n, g, d, active, agreed) {
  const lostTwice = active ? 2n : 1n;
  refuse(n < 2 || 10n * (g[0] * d[1] + lostTwice * d[0] * g[1]) > 9n * g[1] * d[1], 'no graph');
  const gone = times(d, n), corrupt = times(g, active ? Math.max(n, agreed) : n);
  let threshold = active ? majority(n, corrupt) : Math.max(corrupt, Math.floor(n / 2)) + 1;
  const sparse = active ? planPicks(n, corrupt, gone) : planCircle(n, corrupt, gone);
  refuse(active && n > 20000, 'too many clients');
  if (sparse) return { ...sparse, quorum: active ? threshold : 0, picks: active };
  refuse(threshold > n - gone, 'no graph');
  return complete(Math.max(threshold, 2));
}

function planCircle(n, corrupt, gone) {
  const bad = corrupt + gone, f = lnFactorial;
  for (let k = 2; k < n - 1; k += 2) {
    const connected = k > bad || Math.log(n) + Math.log(n - k - 1) - Math.LN2
      + f(bad) - f(bad - k) + f(n - k) - f(n) < -41 * Math.LN2;
    if (!connected) continue;
    const chance = (marked, hit) => Math.exp(lnChance(n, marked, k, hit));
    let tail = 0, most = Math.min(k, corrupt), fewest = 0;
    while (most > 0 && tail + chance(corrupt, most) < 2 ** -41 / n) tail += chance(corrupt, most--);
    let below = chance(n - gone, 0);
    while (below < 2 ** -20 / n) below += chance(n - gone, ++fewest);
    const threshold = Math.max(most + 1, 2);
    if (threshold <= fewest) return { degree: k, threshold };
  }
  return null;
}

function planPicks(n, corrupt, gone) {
  if (n < 200 || n > 20000 || 2 * (n - gone) <= n + corrupt) return null;
  const honest = n - corrupt, names = Math.floor(n / 20) + 1;
  for (let k = 2; k < n - 1; k++) {
    if (1 - (1 - k / (n - 1)) ** 2 >= 0.5) return null;
    const failing = -20 - Math.log2(n), insecure = -41 - Math.log2(n);
    const threshold = k - first(0, k, (m) => logTail(n - 1, gone, k, m + 1) < failing);
    const worst = first(0, Math.min(k, corrupt),
      (m) => logTail(n - 1, corrupt, k, m + 1) < insecure);
    if (threshold < Math.max(worst + 1, 2)) continue;
    let alpha = 0;
    for (let total = 0; alpha < honest; alpha++) {
      const size = alpha + 1, marked = Math.min(corrupt + size - 1, n - 1);
      const opened = size * logTail(n - 1, marked, k, threshold);
      total += 2 ** Math.min(lnChoose(honest, size) / Math.LN2 + opened, 0);
      if (total >= 2 ** -41) break;
    }
    const missed = logTail(n - 1, n - 1 - names, k, k);
    const sets = (r) => (lnChoose(honest, r) + lnChoose(honest - r, names)) / Math.LN2;
    const chance = (r) => sets(r) + r * missed;
    const high = honest - names; // concave in r: its top is where it no longer grows
    if (high < alpha + 1) return { degree: k, threshold };
    const top = first(alpha + 1, high, (r) => chance(r) >= chance(r + 1));
    if (chance(top) <= -41 - 2 * Math.log2(n)) return { degree: k, threshold };
  }
  return null;
}
