// Stages that change logits and remove no tail: constraints, penalties, temperature. The twin of constraints.py and
// penalties.py in minillm/sampler. Each makes new logits; in float32, as in Python: Math.fround rounds.
import { largestOf } from "./stage_weights.js";

const LARGEST_PENALTY = 1e30;
const SMALLEST = 2 ** -126, LARGEST = (2 - 2 ** -23) * 2 ** 127;  // the range of temperatures in float32

// ------------------------------------------------------------------------------------------------------ constraints

// l_i + bias_i. A bias of minus infinity is a ban.
export function logitBias(logits, bias) {
  const biased = logits.slice();
  for (const [id, number] of Object.entries(bias)) {
    biased[id] += Math.fround(number === "-inf" ? -Infinity : number);
  }
  return biased;
}

export function ban(logits, tokens) {
  const banned = logits.slice();
  for (const id of tokens) banned[id] = -Infinity;
  return banned;
}

// Leaves a single token, even if it was banned before.
export function force(logits, token) {
  if (token === undefined) return logits;
  const forced = logits.slice().fill(-Infinity);
  forced[token] = 0;
  return forced;
}

// -------------------------------------------------------------------------------------------------------- penalties

// Positive logits of seen tokens are divided by the penalty, negative ones are multiplied by it.
export function repetitionPenalty(logits, seen, penalty) {
  const changed = logits.slice();
  for (const id of new Set(seen)) changed[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
  return changed;
}

// The penalty is subtracted once, however often a token was seen.
export function presencePenalty(logits, seen, penalty) {
  const changed = logits.slice();
  for (const id of new Set(seen)) changed[id] -= Math.fround(penalty);
  return changed;
}

// The penalty is subtracted for each time that a token was seen.
export function frequencyPenalty(logits, seen, penalty) {
  const changed = logits.slice();
  const counts = new Map();
  for (const id of seen) counts.set(id, (counts.get(id) ?? 0) + 1);
  for (const [id, count] of counts) changed[id] -= Math.fround(penalty * count);
  return changed;
}

// Bans what would complete a run of `size` tokens that is already in the text, unless nothing would be left.
export function noRepeatNgram(logits, seen, size) {
  const changed = logits.slice();
  const end = seen.slice(seen.length - (size - 1));
  for (let at = 0; at + size <= seen.length; at++) {
    if (end.every((id, place) => seen[at + place] === id)) changed[seen[at + size - 1]] = -Infinity;
  }
  return changed.some((x) => x > -Infinity) ? changed : logits;
}

// multiplier * base^(n - allowed length) is subtracted from a token that would prolong a repetition of n tokens.
export function dryPenalty(logits, seen, s) {
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

export function last(ids, window) {
  return window ? ids.slice(-window) : ids;
}

// ------------------------------------------------------------------------------------------------------ temperature

// (l - max(l)) / T
export function divideByTemperature(logits, temperature) {
  const largest = largestOf(logits);
  const divisor = Math.fround(Math.min(Math.max(temperature, SMALLEST), LARGEST));
  return logits.map((x) => Math.fround(x - largest) / divisor);
}
