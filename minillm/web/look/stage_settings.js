// The settings of the sampler: their defaults, and what each may be. The twin of minillm/sampler/settings.py.
//
//   checked(settings, vocabulary) -> settings, if each is what it may be and names only tokens that there are
//
// Throws a Refused where Python raises a UserError.
export class Refused extends Error {}

export const DEFAULTS = {
  temperature: 1, order: "minillm", ties: null, top_k: null, top_p: null, min_p: null, typical_p: null,
  epsilon_cutoff: null, eta_cutoff: null, top_n_sigma: null,
  xtc_probability: 0, xtc_threshold: 0.1, repetition_penalty: 1, presence_penalty: 0,
  frequency_penalty: 0, no_repeat_ngram: 0, dry_multiplier: 0, dry_base: 1.75, dry_allowed_length: 2, dry_breakers: [],
  penalty_window: null, logit_bias: {}, banned_tokens: [], forced_tokens: {}, min_tokens: 0, end_tokens: [],
  mirostat_tau: null, mirostat_eta: 0.1,
};

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
export function checked(s, vocabulary) {
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
