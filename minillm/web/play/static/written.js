// The text so far: each token coloured by its surprise or its probability, and one of them selected.
//
// A list box with a single tab stop: its options are the tokens that were written, and the place of the next one.
import { h, short, visible } from "./look/dom.js";
import { logprobOf, probabilityOf } from "./text_tree.js";

const MOST_BITS = 12;  // a token of this surprise has the strongest colour
export const COLOURS = {
  surprise: "the model's surprise", probability: "the probability it was drawn with", none: "no colour",
};

// onSelect(node): a token, or null for the place of the next. onKey(event): other keys.
export function writtenText({ onSelect, onKey }) {
  const prompt = h("span", { class: "prompt" });
  const list = h("span", {
    class: "tokens", role: "listbox", tabindex: 0, "aria-label": "Tokens of the text", "aria-describedby": "write-keys",
    onkeydown: onKey,
  });
  const element = h("div", { id: "text", class: "written mono scroll" }, prompt, list);
  let nodes = new Map();  // id of an option -> its node

  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) onSelect(nodes.get(option.id) ?? null);
  });

  // tree: a TextTree. seen: the selected node, null for the next. unseen: how many tokens are out of the model's view.
  function update(tree, seen, colour, unseen) {
    const { pieces, logprobs } = tree.prompt;
    prompt.replaceChildren(...pieces.map((piece, at) => promptToken(piece, logprobs[at], colour, at < unseen)));
    const path = tree.path();
    const later = tree.continuation();
    nodes = new Map([...path, ...later].map((node) => [`token-${node.id}`, node]));
    const options = path.map((node, at) => token(node, { seen, colour, isUnseen: pieces.length + at < unseen }));
    const next = h("span", {
      role: "option", id: "token-next", class: "token next", "aria-selected": String(seen === null),
      "aria-label": "the next token",
    }, "▏");
    list.replaceChildren(...options, next, ...later.map((node) => token(node, { seen, colour, isLater: true })));
    list.setAttribute("aria-activedescendant", seen ? `token-${seen.id}` : "token-next");
  }

  // At the end of all drawing: the browser has to know where everything is.
  function scroll() {
    list.querySelector("[aria-selected=true]").scrollIntoView({ block: "nearest" });
  }

  return { element, update, scroll };
}

// "␣the, probability 12.3 %, surprise 3.02 bits"
export function describe(node) {
  const drawn = node.byHand ? "chosen by hand" : `drawn with ${percent(probabilityOf(node))}`;
  return `${visible(node.piece)}, ${drawn}, surprise ${bits(logprobOf(node)).toFixed(2)} bits`;
}

function token(node, { seen, colour, isUnseen, isLater }) {
  const classes = ["token", isUnseen ? "unseen" : null, isLater ? "later" : null, node.byHand ? "by-hand" : null];
  const label = `${describe(node)}${isLater ? ", of the continuation that was left" : ""}`;
  const strength = isLater ? 0 : strengthOf(logprobOf(node), probabilityOf(node), colour);
  return h("span", {
    role: "option", id: `token-${node.id}`, class: classes.filter(Boolean).join(" "), title: label,
    "aria-label": label, "aria-selected": String(seen === node), style: `--strength: ${strength}`,
  }, readable(node));
}

function promptToken(piece, logprob, colour, isUnseen) {
  const strength = logprob === null ? 0 : strengthOf(logprob, Math.exp(logprob), colour);
  const title = logprob === null ? "prompt" : `prompt, surprise ${bits(logprob).toFixed(2)} bits`;
  const classes = isUnseen ? "token unseen" : "token";
  return h("span", { class: classes, title, style: `--strength: ${strength}` }, lineEnds(piece));
}

function strengthOf(logprob, probability, colour) {
  if (colour === "none") return 0;
  return short(colour === "surprise" ? Math.min(1, bits(logprob) / MOST_BITS) : 1 - probability);
}

function bits(logprob) {
  return -logprob / Math.LN2;
}

function readable(node) {
  return node.piece === "" ? `⟨${node.token}⟩` : lineEnds(node.piece);
}

function lineEnds(text) {
  return text.replaceAll("\n", "⏎\n");
}

export function percent(share) {
  return `${(100 * share).toPrecision(3)} %`;
}
