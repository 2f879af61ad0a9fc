// Speculative decoding pass by pass: guesses that were accepted, and refused ones with what the model wrote instead.
import { h, short, visible } from "./look/dom.js";
import { numberField, numberOf, searchForm } from "./search_form.js";
import { percent } from "./written.js";

const EXPLANATION = "A draft guesses the next tokens, and one pass of the model checks them all. ✓ accepted; ✗ "
  + "refused, with the token that the model wrote in its place; grey: guesses after a refused one. A number "
  + "begins each pass.";

// promptIds(): a promise of the prompt's ids. values(): the settings of the sampler. -> { element, end() }
export function speculationPanel(api, promptIds, values) {
  const draft = h("select", {}, h("option", {}, "look-up"));
  const lookahead = numberField("guesses at a time", { min: 1, max: 20, placeholder: "usual" });
  const tokens = numberField("tokens", { min: 1, max: 200, value: 60 });
  const text = h("div", {
    class: "speculation mono scroll", tabindex: 0, role: "region", "aria-label": "Text with its guesses",
  });
  const sums = h("dl", { class: "sums" });

  async function fillDrafts() {
    const names = await api.post("write/drafts");
    draft.replaceChildren(...names.map((name) => h("option", {}, name)));
  }

  async function begin(signal) {
    text.replaceChildren();
    sums.replaceChildren();
    const body = {
      prompt: await promptIds(), settings: values(), draft: draft.value, tokens: numberOf(tokens),
      lookahead: numberOf(lookahead),
    };
    const passes = [];
    await api.stream("write/speculate", body, (event) => {
      if (event.proposals) {
        passes.push(event);
        text.append(passElement(event, passes.length));
      } else {
        sums.replaceChildren(...sumsOf(event));
        markEnd(text, event.written, passes);
      }
    }, signal);
  }

  fillDrafts();
  const { form, end } = searchForm([h("label", {}, "draft", draft), lookahead, tokens], "Write", begin);
  const element = h("section", { class: "panel", "aria-labelledby": "speculation-heading" },
    h("h2", { id: "speculation-heading" }, "Speculative decoding"), h("p", { class: "quiet" }, EXPLANATION), form,
    sums, text);
  return { element, end };
}

// One pass: its accepted guesses, the first refused one, those that were not looked at, and the model's own token.
function passElement(pass, number) {
  const { proposals, written, written_pieces: pieces } = pass;
  const accepted = written.length - 1;
  const arrow = accepted < proposals.length ? "→" : "";
  return h("span", { class: "pass", "data-written": written.join(" ") },
    h("sub", { title: `pass ${number}` }, number), proposals.map((_, at) => guess(pass, at, accepted)),
    h("span", { class: "own", title: "the model's own token" }, arrow, lines(pieces[accepted])));
}

// A guess. accepted: how many are, the first ones.
function guess({ pieces, p, q, numbers }, at, accepted) {
  const shares = `the model gives it ${percent(p[at])}, the draft ${percent(q[at])}`;
  const figures = `${shares}; the number is ${short(numbers[at])}`;
  const sign = (text) => h("span", { class: "sign" }, text);
  if (at < accepted) {
    return h("span", { class: "guess accepted", title: `accepted: ${figures}` }, sign("✓"), lines(pieces[at]));
  }
  if (at === accepted) {
    return h("s", { class: "guess refused", title: `refused: ${figures}` }, sign("✗"), visible(pieces[at]));
  }
  return h("s", { class: "guess unread", title: "not looked at: one before it was refused" }, visible(pieces[at]));
}

// Tokens of the last pass that come after an end of text are not written.
function markEnd(text, written, passes) {
  const surplus = passes.reduce((sum, pass) => sum + pass.written.length, 0) - written;
  if (surplus > 0) {
    text.append(h("p", { class: "quiet" }, `The text has ended: the last ${surplus} of these tokens are not written.`));
  }
}

function sumsOf({ passes, proposed, accepted, written, accepted_share: share, tokens_per_pass: each }) {
  const rows = {
    "tokens written": written, "passes of the model": passes, "passes saved": written - passes, guesses: proposed,
    accepted: `${accepted}, ${percent(share)}`, "tokens a pass": each.toFixed(2),
  };
  return Object.entries(rows).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))));
}

function lines(text) {
  return visible(text).replaceAll("⏎", "⏎\n");
}
