// The sampler once more, in the page: the twin of minillm/sampler for one row of logits.
//
//   trace(logits, settings, context) -> { stages: [{ name, logits, p, kept, removed, entropy, choices }], draw }
//
// logits     Float32Array (V,).
// settings   name -> value, those of SamplerSettings; what is missing has its default.
// context    { prompt: [id], written: [id], u, coin, mu }: the tokens so far; the number drawn, in [0, 1); the number
//            that decides on XTC, in [0, 1); the surprise in bits that mirostat allows, by default twice mirostat_tau.
// draw       { token, p, first, past, u, mu, probabilities }: u is null for greedy; mu is mirostat's next one.
//
// Logits are in float32, as in Python: Math.fround rounds after each operation. Probabilities are in float64. Throws a
// Refused where Python raises a UserError.
export class Refused extends Error {}

const ROUNDING = 1e-7;  // relative tolerance of comparisons of probabilities
const LLAMA_CPP_WINDOW = 64;  // tokens that its penalties read unless penalty_window is set
const LARGEST_PENALTY = 1e30;
const LARGEST_MU = 1e6;
const SMALLEST = 2 ** -126, LARGEST = (2 - 2 ** -23) * 2 ** 127;  // the range of temperatures in float32

export const ORDERS = {
  "minillm": [
    "logit_bias", "banned_tokens", "min_tokens", "forced_tokens",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram", "dry_multiplier",
    "temperature",
    "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma", "xtc_probability",
    "mirostat_tau",
  ],
  "hf": [
    "logit_bias", "repetition_penalty", "no_repeat_ngram", "banned_tokens", "min_tokens",
    "temperature",
    "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
  ],
  "vllm": [
    "banned_tokens", "min_tokens", "logit_bias",
    "repetition_penalty", "frequency_penalty", "presence_penalty",
    "temperature", "min_p", "top_k", "top_p",
  ],
  "llama.cpp": [
    "logit_bias", "banned_tokens", "repetition_penalty", "frequency_penalty", "presence_penalty", "dry_multiplier",
    "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc_probability",
    "temperature", "mirostat_tau",
  ],
};

const DEFAULTS = {
  temperature: 1, order: "minillm", ties: null, top_k: null, top_p: null, min_p: null, typical_p: null,
  epsilon_cutoff: null, eta_cutoff: null, top_n_sigma: null,
  xtc_probability: 0, xtc_threshold: 0.1, repetition_penalty: 1, presence_penalty: 0,
  frequency_penalty: 0, no_repeat_ngram: 0, dry_multiplier: 0, dry_base: 1.75, dry_allowed_length: 2, dry_breakers: [],
  penalty_window: null, logit_bias: {}, banned_tokens: [], forced_tokens: {}, min_tokens: 0, end_tokens: [],
  mirostat_tau: null, mirostat_eta: 0.1,
};

export function trace(logits, settings, context) {
  const s = checked({ ...DEFAULTS, ...settings }, logits.length);
  const given = { ...context, mu: context.mu ?? 2 * s.mirostat_tau };
  const stages = [recorded("model", refuseInvalid(logits, "model"), null)];
  for (const stage of stagesOf(s)) {
    if (s.temperature === 0 && stage.isCut) continue;  // no cut can change the largest logit
    const before = stages.at(-1);
    const after = stage.apply(before.logits, given);
    if (!stage.isCut) refuseInvalid(after, stage.name);
    stages.push(recorded(stage.name, after, before.p));
  }
  return { stages, draw: drawn(stages.at(-1), s, given) };
}

// What each setting may be, in the words of minillm/sampler/settings.py.
const OFF_AT_0_OR_NULL = ["a finite number of at least 0 (0 or None turns it off)", (x) => x === null || x >= 0];
const ANY_NUMBER = ["a finite number (0 turns it off)", () => true];
const ABOVE_0 = ["a finite number above 0", (x) => x > 0];
const SHARE = ["a number from 0 (off) to 1", (x) => x === null || (x >= 0 && x <= 1)];
const SHARE_ABOVE_0 = [
  "a number above 0 and at most 1 (1 or None turns it off)", (x) => x === null || (x > 0 && x <= 1),
];
const COUNT = ["a whole number of at least 0 (0 turns it off)", isCount];
const COUNT_OR_NULL = ["a whole number of at least 0 (0 or None turns it off)", (x) => x === null || isCount(x)];
const RULES = {
  temperature: ["a finite number of at least 0 (0 is greedy)", (x) => x >= 0],
  top_k: COUNT_OR_NULL, top_p: SHARE_ABOVE_0, min_p: SHARE, typical_p: SHARE_ABOVE_0,
  epsilon_cutoff: SHARE, eta_cutoff: SHARE, top_n_sigma: OFF_AT_0_OR_NULL,
  xtc_probability: SHARE, xtc_threshold: ["a number from 0 to 1", (x) => x >= 0 && x <= 1],
  repetition_penalty: ABOVE_0, presence_penalty: ANY_NUMBER, frequency_penalty: ANY_NUMBER, no_repeat_ngram: COUNT,
  dry_multiplier: OFF_AT_0_OR_NULL, dry_base: ["a finite number of at least 1", (x) => x >= 1],
  dry_allowed_length: ["a whole number of at least 1", (x) => isCount(x) && x >= 1], penalty_window: COUNT_OR_NULL,
  min_tokens: COUNT, mirostat_tau: OFF_AT_0_OR_NULL, mirostat_eta: ABOVE_0,
};

function isCount(x) {
  return Number.isInteger(x) && x >= 0;
}

// The settings, if each is what it may be and names only tokens that there are.
function checked(s, vocabulary) {
  for (const [name, [words, holds]] of Object.entries(RULES)) {
    const finite = s[name] === null || Number.isFinite(s[name]);
    if (!finite || !holds(s[name])) throw new Refused(`${name} is ${s[name]}: it must be ${words}`);
  }
  const groups = { banned_tokens: s.banned_tokens, dry_breakers: s.dry_breakers, end_tokens: s.end_tokens,
    logit_bias: Object.keys(s.logit_bias).map(Number), forced_tokens: Object.values(s.forced_tokens) };
  for (const [name, tokens] of Object.entries(groups)) {
    const unknown = tokens.find((token) => token >= vocabulary);
    if (unknown !== undefined) {
      throw new Refused(`${name} names token ${unknown}, but the vocabulary has only ${vocabulary} tokens`);
    }
  }
  return s;
}

// The active stages in order: [{ name, isCut, apply(logits, context) -> logits }].
export function stagesOf(s) {
  if (!(s.order in ORDERS)) throw new Refused(`order is "${s.order}": use one of ${Object.keys(ORDERS).join(", ")}`);
  if (s.min_tokens && !s.end_tokens.length) {
    throw new Refused("min_tokens needs end_tokens: the ids that end a text and are not to be chosen before");
  }
  const on = new Map(allStages(s).filter((stage) => stage.wanted).map((stage) => [stage.name, stage]));
  for (const name of on.keys()) {
    if (!ORDERS[s.order].includes(name)) {
      throw new Refused(`${name} does not exist in ${s.order}: leave it out, or use order="minillm"`);
    }
  }
  if (s.order === "llama.cpp" && on.has("mirostat_tau")) {
    const alone = ["mirostat_tau", "temperature", "logit_bias", "banned_tokens"];
    const extra = [...on.keys()].filter((name) => !alone.includes(name)).sort();
    if (extra.length) throw new Refused(`llama.cpp runs mirostat alone: leave out ${extra.join(", ")}`);
  }
  return ORDERS[s.order].filter((name) => on.has(name)).map((name) => on.get(name));
}

function allStages(s) {
  const llama = s.order === "llama.cpp";
  const ties = s.ties ?? (["hf", "vllm"].includes(s.order) ? "all" : "lowest");
  const window = llama && s.penalty_window === null ? LLAMA_CPP_WINDOW : s.penalty_window;
  const seen = (c) => last([...c.prompt, ...c.written], window);
  const written = (c) => (llama ? seen(c) : last(c.written, window));  // its window does not separate prompt and text
  const everything = (c) => last([...c.prompt, ...c.written], s.penalty_window);
  const below1 = (p) => p !== null && p < 1;
  const change = (name, wanted, apply) => ({ name, wanted, apply, isCut: false });
  const cut = (name, apply, wanted = s[name]) => ({ name, wanted, apply, isCut: true });
  const count = (c) => c.written.length;
  return [
    change("logit_bias", Object.keys(s.logit_bias).length, (x) => logitBias(x, s.logit_bias)),
    change("banned_tokens", s.banned_tokens.length, (x) => ban(x, s.banned_tokens)),
    change("min_tokens", s.min_tokens, (x, c) => (count(c) < s.min_tokens ? ban(x, s.end_tokens) : x)),
    change("forced_tokens", Object.keys(s.forced_tokens).length, (x, c) => force(x, s.forced_tokens[count(c)])),
    change("repetition_penalty", s.repetition_penalty !== 1,
      (x, c) => repetitionPenalty(x, seen(c), s.repetition_penalty)),
    change("presence_penalty", s.presence_penalty, (x, c) => presencePenalty(x, written(c), s.presence_penalty)),
    change("frequency_penalty", s.frequency_penalty, (x, c) => frequencyPenalty(x, written(c), s.frequency_penalty)),
    change("no_repeat_ngram", s.no_repeat_ngram, (x, c) => noRepeatNgram(x, seen(c), s.no_repeat_ngram)),
    change("dry_multiplier", s.dry_multiplier, (x, c) => dryPenalty(x, everything(c), s)),
    change("temperature", ![0, 1].includes(s.temperature), (x) => divideByTemperature(x, s.temperature)),
    cut("top_k", (x) => topK(x, s.top_k, ties)),
    cut("top_p", (x) => topP(x, s.top_p), below1(s.top_p)),
    cut("min_p", (x) => minP(x, s.min_p)),
    cut("typical_p", (x) => typical(x, s.typical_p, ties, llama), below1(s.typical_p)),
    cut("epsilon_cutoff", (x) => epsilonCut(x, s.epsilon_cutoff, ties)),
    cut("eta_cutoff", (x) => etaCut(x, s.eta_cutoff, ties)),
    cut("top_n_sigma", (x) => topNSigma(x, s.top_n_sigma)),
    cut("xtc_probability", (x, c) => (c.coin < s.xtc_probability ? excludeTopChoices(x, s.xtc_threshold) : x)),
    cut("mirostat_tau", (x, c) => mirostatCut(x, c.mu)),
  ];
}

// ------------------------------------------------------------------------------------------------------ constraints

// l_i + bias_i. A bias of minus infinity is a ban.
function logitBias(logits, bias) {
  const biased = logits.slice();
  for (const [id, number] of Object.entries(bias)) {
    biased[id] += Math.fround(number === "-inf" ? -Infinity : number);
  }
  return biased;
}

function ban(logits, tokens) {
  const banned = logits.slice();
  for (const id of tokens) banned[id] = -Infinity;
  return banned;
}

// Leaves a single token, even if it was banned before.
function force(logits, token) {
  if (token === undefined) return logits;
  const forced = logits.slice().fill(-Infinity);
  forced[token] = 0;
  return forced;
}

// -------------------------------------------------------------------------------------------------------- penalties

// Positive logits of seen tokens are divided by the penalty, negative ones are multiplied by it.
function repetitionPenalty(logits, seen, penalty) {
  const changed = logits.slice();
  for (const id of new Set(seen)) changed[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
  return changed;
}

// The penalty is subtracted once, however often a token was seen.
function presencePenalty(logits, seen, penalty) {
  const changed = logits.slice();
  for (const id of new Set(seen)) changed[id] -= Math.fround(penalty);
  return changed;
}

// The penalty is subtracted for each time that a token was seen.
function frequencyPenalty(logits, seen, penalty) {
  const changed = logits.slice();
  const counts = new Map();
  for (const id of seen) counts.set(id, (counts.get(id) ?? 0) + 1);
  for (const [id, count] of counts) changed[id] -= Math.fround(penalty * count);
  return changed;
}

// Bans what would complete a run of `size` tokens that is already in the text, unless nothing would be left.
function noRepeatNgram(logits, seen, size) {
  const changed = logits.slice();
  const end = seen.slice(seen.length - (size - 1));
  for (let at = 0; at + size <= seen.length; at++) {
    if (end.every((id, place) => seen[at + place] === id)) changed[seen[at + size - 1]] = -Infinity;
  }
  return changed.some((x) => x > -Infinity) ? changed : logits;
}

// multiplier * base^(n - allowed length) is subtracted from a token that would prolong a repetition of n tokens.
function dryPenalty(logits, seen, s) {
  const changed = logits.slice();
  for (const [id, length] of repetitions(seen, s.dry_breakers)) {
    if (length < s.dry_allowed_length) continue;
    const penalty = s.dry_multiplier * s.dry_base ** (length - s.dry_allowed_length);
    changed[id] -= Math.fround(Math.min(penalty, LARGEST_PENALTY));
  }
  return changed;
}

// Token -> the length of the longest repetition that it would prolong. None reaches over a breaker.
function repetitions(seen, breakers) {
  const last = seen.length - 1;
  const longest = new Map();
  for (let end = 0; end < last; end++) {
    let length = 0;
    const repeats = (n) => seen[end - n] === seen[last - n] && !breakers.includes(seen[end - n]);
    while (length <= end && repeats(length)) length++;
    const next = seen[end + 1];
    if (length && !breakers.includes(next)) longest.set(next, Math.max(longest.get(next) ?? 0, length));
  }
  return longest;
}

function last(ids, window) {
  return window ? ids.slice(-window) : ids;
}

// ------------------------------------------------------------------------------------------------------ temperature

// (l - max(l)) / T
function divideByTemperature(logits, temperature) {
  const largest = largestOf(logits);
  const divisor = Math.fround(Math.min(Math.max(temperature, SMALLEST), LARGEST));
  return logits.map((x) => Math.fround(x - largest) / divisor);
}

// ------------------------------------------------------------------------------------------------------------- cuts

// The k largest; of several equal to the k-th those of the lowest ids, or with ties "all" all of them.
function topK(logits, k, ties) {
  if (k >= logits.length) return logits;
  const ids = byRising(logits.map((x) => -x)).slice(0, k);
  const least = logits[ids.at(-1)];
  return ties === "all" ? keepIf(logits, (x) => x >= least) : keepIds(logits, ids);
}

// The likeliest, down to and including the one with which their sum reaches p.
function topP(logits, p) {
  const { w, total } = weights(logits);
  return keepIds(logits, upTo(p * total, w, logits.map((x) => -x)));
}

// Those at least p times as likely as the likeliest: l_i >= max(l) + log p.
function minP(logits, p) {
  const least = largestOf(logits) + Math.log(p * (1 - ROUNDING));
  return keepIf(logits, (x) => x >= least);
}

// Those whose surprise is nearest to the entropy, until their sum reaches p; llama.cpp: exceeds p.
function typical(logits, p, ties, more) {
  const { shifted, w, total } = weights(logits);
  const expected = expectedOf(shifted, w, total);
  const distance = shifted.map((x) => Math.abs(expected - x));
  const ids = upTo((p + (more ? 2 * ROUNDING : 0)) * total, w, distance);
  const furthest = distance[ids.at(-1)];
  return ties === "all" ? keepIf(logits, (x, id) => distance[id] <= furthest) : keepIds(logits, ids);
}

// Those of at least this probability, and always the likeliest.
function epsilonCut(logits, epsilon, ties) {
  const { w, total } = weights(logits);
  return likelier(logits, w, epsilon * total, ties);
}

// Those of at least min(epsilon, sqrt(epsilon) exp(-H)), and always the likeliest.
function etaCut(logits, epsilon, ties) {
  const { shifted, w, total } = weights(logits);
  const entropy = Math.log(total) - expectedOf(shifted, w, total);
  return likelier(logits, w, Math.min(epsilon, Math.sqrt(epsilon) * Math.exp(-entropy)) * total, ties);
}

// Logits at most n standard deviations below the largest.
function topNSigma(logits, n) {
  const finite = Float64Array.from(logits.filter((x) => x > -Infinity));
  const mean = sum(finite) / finite.length;
  const deviation = Math.sqrt(sum(finite.map((x) => (x - mean) ** 2)) / finite.length);
  const least = largestOf(logits) - n * deviation;
  return keepIf(logits, (x) => x >= least);
}

// Of the tokens that reach the threshold only the least likely stays; of equally likely ones that of the highest id.
function excludeTopChoices(logits, threshold) {
  const { w, total } = weights(logits);
  let stays = -1;
  const reaches = (x, id) => x > -Infinity && w[id] / total >= threshold * (1 - ROUNDING);
  logits.forEach((x, id) => { if (reaches(x, id) && (stays < 0 || x <= logits[stays])) stays = id; });
  return keepIf(logits, (x, id) => id === stays || !reaches(x, id));
}

// Tokens with a surprise of at most mu bits, and the likeliest.
function mirostatCut(logits, mu) {
  const { w, total } = weights(logits);
  return likelier(logits, w, total * 2 ** -Math.max(mu, 0), "lowest");
}

function likelier(logits, w, least, ties) {
  const kept = keepIf(logits, (x, id) => w[id] >= least * (1 - ROUNDING));
  if (kept.some((x) => x > -Infinity)) return kept;
  const largest = largestOf(logits);
  return ties === "all" ? keepIf(logits, (x) => x === largest) : keepIds(logits, [logits.indexOf(largest)]);
}

// The first ids by rising `order`, up to and including the one with which the sum of their w reaches the mass.
function upTo(mass, w, order) {
  const ids = byRising(order);
  let reached = 0;
  const end = ids.findIndex((id) => (reached += w[id]) >= mass * (1 - ROUNDING));
  return end < 0 ? ids : ids.slice(0, end + 1);
}

// Ids by rising value; of equal ones the lowest id comes first.
function byRising(values) {
  return [...values.keys()].sort((a, b) => (values[a] === values[b] ? a - b : values[a] - values[b]));
}

function keepIf(logits, holds) {
  return logits.map((x, id) => (holds(x, id) ? x : -Infinity));
}

function keepIds(logits, ids) {
  const kept = new Set(ids);
  return keepIf(logits, (x, id) => kept.has(id));
}

// ------------------------------------------------------------------------------------- probabilities, and the draw

// shifted: l - max(l); w: its exponential; total: their sum. All in float64.
function weights(logits) {
  const largest = largestOf(logits);
  const shifted = Float64Array.from(logits, (x) => x - largest);
  const w = shifted.map(Math.exp);
  return { shifted, w, total: sum(w) };
}

function expectedOf(shifted, w, total) {
  return sum(w.map((weight, id) => (weight ? weight * shifted[id] : 0))) / total;
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function largestOf(logits) {
  return logits.reduce((largest, x) => (x > largest || x !== x ? x : largest), -Infinity);
}

function recorded(name, logits, before) {
  const { w, total } = weights(logits);
  const p = w.map((weight) => weight / total);
  const left = logits.reduce((count, x) => count + (x > -Infinity), 0);
  const stays = before && sum(before.map((share, id) => (logits[id] > -Infinity ? share : 0)));
  const entropy = -sum(p.map((share) => (share > 0 ? share * Math.log(share) : 0))) + 0;
  const removed = before ? Math.max(1 - stays, 0) : 0;
  return { name, logits, p, kept: left, removed, entropy, choices: Math.exp(entropy) };
}

// The token whose interval of [0, 1) contains u; each has one as long as its probability, in the order of the ids.
function drawn({ logits, p }, s, { u, mu }) {
  if (s.temperature === 0) {
    const token = logits.indexOf(largestOf(logits));
    return { token, p: 1, first: 0, past: 1, u: null, mu, probabilities: p.map((share, id) => Number(id === token)) };
  }
  let past = 0;
  let token = p.findIndex((share) => (past += share) > u);
  if (token < 0) token = p.findLastIndex((share) => share > 0);  // by rounding the sum may be just below 1
  const surprise = -Math.log2(p[token]);
  const next = Math.min(Math.max(mu - s.mirostat_eta * (surprise - s.mirostat_tau), -LARGEST_MU), LARGEST_MU);
  return { token, p: p[token], first: past - p[token], past, u, mu: next, probabilities: p };
}

function refuseInvalid(logits, stage) {
  const where = stage === "model" ? "" : ` after ${stage}`;
  const largest = largestOf(logits);
  if (largest === -Infinity) {
    throw new Refused(`row 0 of the logits is -inf everywhere${where}: no token is left to choose`);
  }
  if (Number.isFinite(largest)) return logits;
  const token = logits.findIndex((x) => !(x < Infinity));
  const named = Number.isNaN(logits[token]) ? "nan" : "inf";
  throw new Refused(`logits[0, ${token}] is ${named}${where}: a token can only be chosen among numbers`);
}
