// Stages that cut: a token stays as it is, or its logit becomes -inf. The twin of cuts.py and mirostat.py in
// minillm/sampler.
import { expectedOf, largestOf, sum, weights } from "./stage_weights.js";

const ROUNDING = 1e-7;  // relative tolerance of comparisons of probabilities

// The k largest; of several equal to the k-th those of the lowest ids, or with ties "all" all of them.
export function topK(logits, k, ties) {
  if (k >= logits.length) return logits;
  const ids = byRising(logits.map((x) => -x)).slice(0, k);
  const least = logits[ids.at(-1)];
  return ties === "all" ? keepIf(logits, (x) => x >= least) : keepIds(logits, ids);
}

// The likeliest, down to and including the one with which their sum reaches p.
export function topP(logits, p) {
  const { w, total } = weights(logits);
  return keepIds(logits, upTo(p * total, w, logits.map((x) => -x)));
}

// Those at least p times as likely as the likeliest: l_i >= max(l) + log p.
export function minP(logits, p) {
  const least = largestOf(logits) + Math.log(p * (1 - ROUNDING));
  return keepIf(logits, (x) => x >= least);
}

// Those whose surprise is nearest to the entropy, until their sum reaches p; llama.cpp: exceeds p.
export function typical(logits, p, ties, more) {
  const { shifted, w, total } = weights(logits);
  const expected = expectedOf(shifted, w, total);
  const distance = shifted.map((x) => Math.abs(expected - x));
  const ids = upTo((p + (more ? 2 * ROUNDING : 0)) * total, w, distance);
  const furthest = distance[ids.at(-1)];
  return ties === "all" ? keepIf(logits, (x, id) => distance[id] <= furthest) : keepIds(logits, ids);
}

// Those of at least this probability, and always the likeliest.
export function epsilonCut(logits, epsilon, ties) {
  const { w, total } = weights(logits);
  return likelier(logits, w, epsilon * total, ties);
}

// Those of at least min(epsilon, sqrt(epsilon) exp(-H)), and always the likeliest.
export function etaCut(logits, epsilon, ties) {
  const { shifted, w, total } = weights(logits);
  const entropy = Math.log(total) - expectedOf(shifted, w, total);
  return likelier(logits, w, Math.min(epsilon, Math.sqrt(epsilon) * Math.exp(-entropy)) * total, ties);
}

// Logits at most n standard deviations below the largest.
export function topNSigma(logits, n) {
  const finite = Float64Array.from(logits.filter((x) => x > -Infinity));
  const mean = sum(finite) / finite.length;
  const deviation = Math.sqrt(sum(finite.map((x) => (x - mean) ** 2)) / finite.length);
  const least = largestOf(logits) - n * deviation;
  return keepIf(logits, (x) => x >= least);
}

// Of the tokens that reach the threshold only the least likely stays; of equally likely ones that of the highest id.
export function excludeTopChoices(logits, threshold) {
  const { w, total } = weights(logits);
  let stays = -1;
  const reaches = (x, id) => x > -Infinity && w[id] / total >= threshold * (1 - ROUNDING);
  logits.forEach((x, id) => { if (reaches(x, id) && (stays < 0 || x <= logits[stays])) stays = id; });
  return keepIf(logits, (x, id) => id === stays || !reaches(x, id));
}

// Tokens with a surprise of at most mu bits, and the likeliest.
export function mirostatCut(logits, mu) {
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
