// The view Backward: a text through the model and back, tensor by tensor. One list has them in the order of the pass;
// beside it a head's attention (backward_attention.js) or an opened tensor (backward_tensor.js).
import { h, short, visible } from "./look/dom.js";
import { decoded, heatPicture } from "./look/heat.js";
import { attentionPanel } from "./backward_attention.js";
import { tensorPanel } from "./backward_tensor.js";

const DIRECTIONS = { forward: "forward", backward: "backward", parameters: "gradients of the weights" };
const SHOWN = { values: "forward", gradient: "gradient" };

let kept = null; // the text, while other views are open

export async function show(root, api, say) {
  kept ??= await api.post("backward/example");
  const styles = ["look/code.css", "backward.css"].map((href) => h("link", { rel: "stylesheet", href }));
  document.head.append(...styles);
  const leaving = new AbortController();
  const text = h("textarea", { id: "bw-text", rows: 2, spellcheck: "false" });
  text.value = kept;
  const run = h("button", { class: "primary", type: "submit" }, "Run forward and backward");
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "the pass" });
  const status = h("span", { class: "quiet", role: "status" });
  const result = h("div", { id: "bw-result" });
  const form = h(
    "form", { class: "panel bw-form" },
    h("label", { for: "bw-text" }, "Text: each token but the first is predicted from those before it"),
    text,
    h("div", { class: "row" }, run, bar, status),
  );
  let current = null; // aborts the pass that runs

  async function start(event) {
    event?.preventDefault();
    kept = text.value;
    current?.abort();
    const mine = (current = new AbortController());
    say("");
    result.setAttribute("aria-busy", "true");
    status.textContent = "running";
    const begun = performance.now();
    const said = text.value;
    try {
      await api.stream("backward/pass", { text: said }, (event) => {
        if (mine.signal.aborted) return;
        if (event.progress) progress(event.progress);
        else finish(said, event.pass, performance.now() - begun);
      }, mine.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      result.replaceChildren();
      status.textContent = "";
      say(error);
    }
    if (current === mine) {
      bar.hidden = true;
      result.removeAttribute("aria-busy");
    }
  }

  function progress({ direction, tensor, done }) {
    bar.hidden = false;
    bar.value = done;
    status.textContent = `${DIRECTIONS[direction]}: ${tensor}`;
  }

  function finish(said, pass, took) {
    const { total } = pass;
    status.textContent = `loss ${short(total.loss)}, perplexity ${short(total.perplexity)}, ${total.tokens} predictions, ` +
      `${took.toFixed(0)} ms`;
    result.replaceChildren(passView({ api, say, text: said, pass, signal: leaving.signal }));
  }

  form.addEventListener("submit", start);
  text.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && start(event));
  root.append(h("h2", { class: "sr-only" }, "Backward"), form, result);
  if (kept) start();
  return () => {
    current?.abort();
    leaving.abort();
    for (const style of styles) style.remove();
  };
}

// All that is shown of one pass. view: api, say, text, pass, signal (of the end of the view).
function passView(view) {
  const side = h("section", { class: "bw-side", "aria-label": "Attention, or an opened tensor" });
  const attention = attentionPanel(view);
  let opened = null; // the name of the tensor that is shown
  let ended = null; // aborts what its panel has running

  const list = tensorList(view, open);

  async function open(name) {
    const wanted = (opened = name);
    list.mark(name);
    side.setAttribute("aria-busy", "true");
    const answer = await view.api.post("backward/tensor", { text: view.text, name }, view.signal);
    if (opened !== wanted) return;
    side.removeAttribute("aria-busy");
    ended?.abort();
    ended = new AbortController();
    side.replaceChildren(tensorPanel(view, answer, { open, close, signal: AbortSignal.any([ended.signal, view.signal]) }));
    side.parentElement.classList.add("opened");
    side.scrollTop = 0;
    side.querySelector("h2").focus({ preventScroll: matchMedia("(min-width: 901px)").matches });
  }

  function close() {
    ended?.abort();
    list.mark(null);
    side.replaceChildren(attention);
    side.parentElement?.classList.remove("opened");
    if (opened) list.focus(opened);
    opened = null;
  }

  close();
  const columns = h("div", { class: "bw-columns" }, list.element, side);
  columns.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !opened) return;
    event.preventDefault();
    close();
  });
  return h("div", {}, tokenStrip(view.pass), columns);
}

// Each token that is predicted, with its loss as a bar.
function tokenStrip({ tokens, losses, total }) {
  const largest = Math.max(...losses, 1e-9);
  const items = tokens.slice(1).map((token, at) => {
    const loss = losses[at];
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    bar.style.height = `${(28 * (loss ?? 0)) / largest}px`;
    return h(
      "li", { title: `token ${at + 1}, predicted from those before it` },
      h("span", { class: "bars" }, bar), h("code", {}, visible(token) || "<>"), h("span", { class: "loss" }, loss?.toFixed(2)),
    );
  });
  const first = h("li", {}, h("span", { class: "bars" }), h("code", {}, visible(tokens[0]) || "<>"), h("span", { class: "loss" }, "given"));
  return h(
    "section", { class: "panel bw-tokens", "aria-labelledby": "bw-tokens" },
    h("h3", { id: "bw-tokens" }, `Loss of each token, in nats: mean ${short(total.loss)}, perplexity ${short(total.perplexity)}`),
    h("ol", { class: "scroll", tabindex: 0, "aria-label": "tokens with their losses" }, first, ...items),
  );
}

// ---------------------------------------------------------------------------------------------- the list of tensors

function tensorList(view, open) {
  const { pass } = view;
  const pictures = pictureLoader(view);
  const whole = new Set(pass.open);
  const body = h("div", { class: "bw-rows", role: "group", "aria-label": "Tensors, in the order of the pass. Arrow keys move, Enter opens" });
  const rows = new Map(); // name -> its button
  const folds = new Map(); // name -> what unfolds its block
  const longest = Math.max(...[...pass.activations, ...pass.parameters].map((row) => row.gradient_norm ?? 0)) || 1;

  function row(fields) {
    const gradient = fields.gradient_norm === null ? "none" : short(fields.gradient_norm);
    const values = h("span", { class: "picture" });
    const slopes = h("span", { class: "picture" });
    const button = h(
      "button", { type: "button", class: "bw-row", tabindex: -1, "data-name": fields.tensor, onclick: () => open(fields.tensor) },
      h("span", { class: "name" }, breakable(fields.tensor), h("small", {}, ` (${fields.shape.join(", ")})`)),
      h("small", { class: "stats" }, `mean ${short(fields.mean)} · std ${short(fields.std)} · max ${short(fields.max_abs)}`),
      values, slopes,
      h("span", { class: "norm" }, h("span", { class: "sr-only" }, "gradient norm "), gradient, normBar(fields, longest)),
    );
    rows.set(fields.tensor, button);
    pictures.watch(button, fields.tensor, { values, gradient: slopes });
    return button;
  }

  function fold(kind, block, members) {
    const fields = pass.folded[kind][block];
    const inside = h("div", { hidden: !whole.has(block), class: "inside" });
    const title = h(
      "button",
      { type: "button", class: "bw-fold", tabindex: -1, "aria-expanded": String(whole.has(block)), onclick: () => turn() },
      h("span", { class: "name" }, `${fields.tensor.replace(/ \+$/, "")}`, h("small", {}, ` ${members.length} tensors`)),
      h("small", { class: "stats" }, `mean ${short(fields.mean)} · std ${short(fields.std)} · max ${short(fields.max_abs)}`),
      h("span", { class: "norm" }, h("span", { class: "sr-only" }, "gradient norm "), short(fields.gradient_norm)),
    );
    let filled = false;

    function turn(to = inside.hidden) {
      if (to && !filled) inside.append(...members.map(row));
      filled ||= to;
      inside.hidden = !to;
      title.setAttribute("aria-expanded", String(to));
    }
    for (const { tensor } of members) folds.set(tensor, () => turn(true));
    turn(whole.has(block));
    return [title, inside];
  }

  function part(kind) {
    const parts = [];
    for (let start = 0, fields = pass[kind]; start < fields.length; ) {
      const block = pass.blocks[fields[start].tensor];
      let end = start + 1;
      while (block !== null && end < fields.length && pass.blocks[fields[end].tensor] === block) end += 1;
      parts.push(...(block === null ? [row(fields[start])] : fold(kind, block, fields.slice(start, end))));
      start = end;
    }
    return parts;
  }

  body.append(...part("activations"), h("h3", { class: "bw-part" }, "Weights"), ...part("parameters"));
  const buttons = () => [...body.querySelectorAll("button")].filter((button) => button.offsetParent !== null);
  body.querySelector("button").tabIndex = 0;
  body.addEventListener("focusin", (event) => {
    for (const button of body.querySelectorAll('button[tabindex="0"]')) button.tabIndex = -1;
    event.target.tabIndex = 0;
  });
  body.addEventListener("keydown", (event) => {
    const all = buttons();
    const at = all.indexOf(event.target);
    const goal = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    all[Math.min(all.length - 1, Math.max(0, goal))].focus();
  });

  const heading = h(
    "div", { class: "bw-heading", "aria-hidden": "true" },
    h("span", {}, "tensor"), h("span", { class: "down" }, "↓ forward"), h("span", { class: "up" }, "↑ gradient"), h("span", {}, "|gradient|"),
  );
  return {
    element: h(
      "section", { class: "panel bw-list", "aria-labelledby": "bw-pass" },
      h("h2", { id: "bw-pass" }, "The pass"),
      h("p", { class: "quiet" }, "Forward goes down. Backward starts at the loss, whose gradient is 1, and goes up."),
      heading, body,
    ),
    mark(name) {
      folds.get(name)?.();
      for (const [each, button] of rows) {
        if (each === name) button.setAttribute("aria-current", "true");
        else button.removeAttribute("aria-current");
      }
    },
    focus: (name) => rows.get(name)?.focus(),
  };
}

// A name that a narrow column breaks after a dot.
function breakable(name) {
  return name.split(/(?<=\.)/).flatMap((part, at) => (at ? [h("wbr"), part] : [part]));
}

// The norm beside the largest one of the pass, on a scale of powers of ten: four of them.
function normBar({ gradient_norm: norm }, longest) {
  const bar = h("span", { class: "norm-bar", "aria-hidden": "true" });
  const share = norm > 0 ? Math.max(0, 1 + Math.log10(norm / longest) / 4) : 0;
  bar.style.width = `${100 * share}%`;
  return bar;
}

// Asks for the small pictures of the rows that come into sight, some at a time.
function pictureLoader(view) {
  const waiting = new Map();
  let timer = null;

  async function ask() {
    timer = null;
    const batch = [...waiting].slice(0, 32);
    for (const [name] of batch) waiting.delete(name);
    if (waiting.size) timer = setTimeout(ask);
    const maps = await view.api.post("backward/maps", { text: view.text, names: batch.map(([name]) => name) }, view.signal);
    for (const [name, places] of batch) {
      for (const [which, place] of Object.entries(places)) {
        const map = decoded(maps[name]?.[which]);
        place.replaceChildren(map ? heatPicture(map, `${name}, ${SHOWN[which]}`) : h("small", {}, "none"));
      }
    }
  }

  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      waiting.set(target.dataset.name, target.places);
      timer ??= setTimeout(ask);
    }
  }, { rootMargin: "200px" });
  view.signal.addEventListener("abort", () => observer.disconnect());
  return {
    watch(button, name, places) {
      button.places = places;
      observer.observe(button);
    },
  };
}
