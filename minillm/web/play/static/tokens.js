// The view Tokens: a text cut into pieces and tokens; the merges replayed (tokens_replay.js); another
// tokenizer beside it.
import { h, visible } from "./look/dom.js";
import { replay } from "./tokens_replay.js";

const KINDS = {
  "byte-level": "Byte pairs: a pattern cuts the text into pieces; a piece begins as its UTF-8 bytes, and the pair that was learned first is merged, again and again.",
  "character-level": "Pairs of characters: a piece begins as characters (or bytes, where a character has no token), and the best pair of neighbours is merged, again and again.",
  characters: "Each character is a token: nothing is cut and nothing is merged.",
};

export async function show(root, api) {
  const info = await api.post("tokens/tokenizers");
  const view = new TokensView(api, info);
  root.append(h("link", { rel: "stylesheet", href: "tokens.css" }), ...view.parts());
  await view.update();
  return () => view.replay.end();
}

class TokensView {
  constructor(api, info) {
    Object.assign(this, { api, info, dirty: false, busy: false });
    this.replay = replay();
    this.main = new Flow("main", (piece) => this.replay.choose(piece));
    this.other = new Flow("other", () => {});
  }

  parts() {
    const { info } = this;
    const options = () => [h("option", { value: "" }, info.model), ...info.folders.map((name) => h("option", { value: name }, name))];
    this.text = h("textarea", { id: "tokens-text", rows: 5, spellcheck: "false", oninput: () => this.update() });
    this.text.value = info.sample;
    this.folder = h("select", { id: "tokens-folder", onchange: () => this.update() }, options());
    this.second = h("select", { id: "tokens-second", onchange: () => this.update() }, h("option", { value: "-" }, "none"), options());
    this.lines = h("select", { onchange: () => this.update() }, h("option", { value: "\n" }, "LF"), h("option", { value: "\r\n" }, "CR LF"));
    this.special = h("input", { type: "checkbox", checked: true, onchange: () => this.update() });
    return [
      h("h1", { class: "sr-only" }, "Tokens"),
      h("section", { class: "panel asked", "aria-label": "The text" },
        h("label", { class: "column", for: "tokens-text" }, "text"), this.text,
        h("div", { class: "row" }, h("label", {}, "tokenizer", this.folder), h("label", {}, "compare with", this.second),
          h("label", {}, "line ends", this.lines), h("label", {}, this.special, "read special tokens"))),
      this.main.element, this.replay.element, this.other.element,
    ];
  }

  // The answer to the latest text; what was typed meanwhile is asked for when one has come.
  async update() {
    this.dirty = true;
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.dirty) {
        this.dirty = false;
        await this.ask();
      }
    } finally {
      this.busy = false;
    }
  }

  async ask() {
    const common = { text: this.text.value.replaceAll("\n", this.lines.value), special: this.special.checked };
    const first = await this.api.post("tokens/cut", { ...common, folder: this.folder.value });
    const second = this.second.value === "-" ? null : await this.api.post("tokens/cut", { ...common, folder: this.second.value });
    this.main.draw(first, this.folder.selectedOptions[0].textContent);
    this.other.draw(second, this.second.selectedOptions[0].textContent, first);
    this.replay.take(first);
  }
}

// The pieces and the tokens of a text by one tokenizer.
class Flow {
  constructor(name, onPiece) {
    this.onPiece = onPiece;
    this.name = name;
    this.element = h("section", { class: "panel flow", id: `tokens-${name}`, "aria-label": `Tokens ${name}` });
  }

  draw(cut, title, against = null) {
    this.element.hidden = cut === null;
    if (cut === null) return;
    this.cut = cut;
    this.told = h("p", { class: "mono told", role: "status" }, "Point at a token, or go through them with the arrow keys.");
    this.element.replaceChildren(...[
      h("h2", {}, title), this.figures(against), h("p", { class: "quiet" }, KINDS[cut.kind]),
      cut.normalized === null ? null : h("div", {}, h("h3", {}, "What the normalizer made of it"),
        h("p", { class: "mono normalized" }, plain(cut.normalized))),
      cut.kind === "characters" || this.name === "other" ? null : h("div", {}, h("h3", {}, `Pieces: ${cut.pieces.length.toLocaleString("en")}`), this.pieces()),
      h("h3", {}, "Tokens"), this.tokens(), this.told,
      this.name === "main" ? this.table() : null].filter(Boolean));
  }

  figures(against) {
    const { count, shown, bytes, characters, vocabulary } = this.cut;
    const difference = against === null ? "" : `, ${compared(count - against.count)} above`;
    const per = (all) => (count ? (all / count).toFixed(2) : "0");
    const rows = [["tokens", `${count.toLocaleString("en")}${difference}`], ["bytes per token", per(bytes)],
      ["characters per token", per(characters)], ["bytes", bytes.toLocaleString("en")], ["vocabulary", vocabulary.toLocaleString("en")]];
    return h("div", {}, h("dl", { class: "figures" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      shown < count ? h("p", { class: "cut-off" }, `The first ${shown.toLocaleString("en")} of ${count.toLocaleString("en")} tokens are shown; all are counted.`) : null);
  }

  pieces() {
    return rove(h("div", { class: "pieces", role: "group", "aria-label": "Pieces" }, this.cut.pieces.map((piece, number) =>
      h("button", { type: "button", class: piece.added ? "piece added" : "piece", "aria-label": `piece ${number + 1}: ${plain(piece.text)}`,
        onclick: () => this.onPiece(number) }, plain(piece.text)))));
  }

  tokens() {
    const boxes = [];
    for (const [piece, { ids, added }] of this.cut.pieces.entries()) {
      for (const id of ids) {
        const token = this.cut.tokens[id];
        const words = describe(id, token, boxes.length, added);
        const tell = () => { this.told.textContent = words; };
        boxes.push(h("button", { type: "button", class: `token tint${boxes.length % 4}${token.special || added ? " special" : ""}`,
          "aria-label": words, title: words, onmouseenter: tell, onfocus: tell, onclick: () => this.onPiece(piece) }, face(token)));
      }
    }
    return rove(h("div", { class: "tokens", role: "group", "aria-label": "Tokens" }, boxes.length ? boxes : h("span", { class: "quiet" }, "no tokens")));
  }

  table() {
    const rows = this.cut.pieces.flatMap(({ ids, text, added }) => ids.map((id) => ({ id, text, added })));
    const body = h("tbody", {});
    const fillRows = () => body.childElementCount || body.append(...rows.map(({ id, text }, position) => {
      const token = this.cut.tokens[id];
      return h("tr", {}, h("td", { class: "number" }, String(position)), h("td", { class: "number" }, String(id)),
        h("td", { class: "mono" }, face(token)), h("td", { class: "mono" }, token.bytes), h("td", { class: "mono" }, plain(text)),
        h("td", {}, token.special ? "special" : ""));
    }));
    return h("details", { ontoggle: fillRows }, h("summary", {}, "Token by token"),
      h("div", { class: "scroll table-scroll", tabindex: 0, role: "region", "aria-label": "Token by token" }, h("table", {},
        h("thead", {}, h("tr", {}, ["position", "id", "token", "bytes", "piece", ""].map((title) => h("th", { scope: "col" }, title)))), body)));
  }
}

const compared = (difference) => (difference === 0 ? "as many as"
  : `${Math.abs(difference).toLocaleString("en")} ${difference < 0 ? "fewer" : "more"} than`);

// A token as a box shows it: its text, or its bytes where they are no characters.
export function face(token) {
  return token.text === null ? `<${token.bytes}>` : plain(token.text) || "·";
}

// A text with all white space and control characters visible, and a mark that has nothing to stand on.
export function plain(text) {
  return visible(text.replaceAll("\r", "␍")).replace(/[\p{Cc}\p{Zs}\p{Zl}\p{Zp}]|^[\p{Cf}\p{M}]+$/gu, codePoints);
}

const codePoints = (text) => [...text].map((each) => `U+${each.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`).join(" ");

function describe(id, token, position, added) {
  const special = token.special ? ", special" : added ? ", added" : "";
  return `token ${position}, id ${id}, "${face(token)}", bytes ${token.bytes || "none"}${special}`;
}

// One tab stop for a row of buttons; the arrow keys move in it.
export function rove(group) {
  const buttons = [...group.querySelectorAll("button")];
  buttons.forEach((button, position) => { button.tabIndex = position ? -1 : 0; });
  group.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || buttons[next] === undefined) return;
    event.preventDefault();
    buttons[at].tabIndex = -1;
    buttons[next].tabIndex = 0;
    buttons[next].focus();
  });
  return group;
}
