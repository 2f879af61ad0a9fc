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
// What a stage does is in stage_penalties.js and stage_cuts.js, what a setting may be in stage_settings.js.
// Logits are in float32, as in Python: Math.fround rounds after each operation. Probabilities are in float64. Throws a
// Refused where Python raises a UserError.
import { epsilonCut, etaCut, excludeTopChoices, minP, mirostatCut, topK, topNSigma, topP, typical } from "./stage_cuts.js";
import { ban, divideByTemperature, dryPenalty, force, frequencyPenalty, last, logitBias } from "./stage_penalties.js";
import { noRepeatNgram, presencePenalty, repetitionPenalty } from "./stage_penalties.js";
import { DEFAULTS, Refused, checked } from "./stage_settings.js";
import { largestOf, sum, weights } from "./stage_weights.js";

const LLAMA_CPP_WINDOW = 64;  // tokens that its penalties read unless penalty_window is set
const LARGEST_MU = 1e6;

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

// ------------------------------------------------------------------------------------- what is recorded, and the draw

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
