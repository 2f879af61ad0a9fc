// The tree of branches as a picture: a lane for each branch, the one that is read drawn thick.
import { h, svg, visible } from "./look/dom.js";

const LANE = 26, LEFT = 14, LETTERS = 28;  // pixels; letters of a branch's name

// tree: a TextTree. onOpen(node): when the end of a branch is chosen, with the mouse, Enter or Space.
export function branchesPicture(tree, onOpen) {
  const { lanes, leaves } = tree.branches();
  const deepest = Math.max(1, ...leaves.map((leaf) => leaf.depth));
  const step = Math.min(22, Math.max(2, 560 / deepest));
  const x = (node) => LEFT + step * node.depth;
  const y = (node) => LANE * lanes.get(node) + LANE / 2;
  const present = new Set(tree.path());
  const nodes = [...lanes.keys()].filter((node) => node.parent);
  const edges = [false, true].map((isPresent) => svg("path", { class: isPresent ? "edge present" : "edge",
    d: nodes.filter((node) => present.has(node) === isPresent).map((node) => line(node, x, y)).join("") }));
  const dots = step < 6 ? [] : [...lanes.keys()].map((node) => dot(node, x, y, present.has(node)));
  const here = svg("circle", { class: "here", cx: x(tree.here), cy: y(tree.here), r: 6 });
  const ends = leaves.map((leaf, at) => branchEnd(leaf, { x: x(leaf), y: y(leaf), at, leaves, tree, onOpen }));
  const width = LEFT + step * deepest + 8 * LETTERS + 40;
  const picture = svg("svg", {
    class: "branches", width, height: LANE * leaves.length, role: "group", "aria-label": "Tree of the branches",
  }, edges, dots, here, ends);
  return h("div", { class: "scroll" }, picture);
}

// From the parent to the node: straight in a lane, round a corner into another one.
function line(node, x, y) {
  const [x1, y1, x2, y2] = [x(node.parent), y(node.parent), x(node), y(node)];
  return y1 === y2 ? `M${x1} ${y1}H${x2}` : `M${x1} ${y1}V${y2 - 6}Q${x1} ${y2} ${Math.min(x1 + 6, x2)} ${y2}H${x2}`;
}

function dot(node, x, y, isPresent) {
  const mark = node.byHand ? svg("rect", { x: x(node) - 3, y: y(node) - 3, width: 6, height: 6 })
    : svg("circle", { cx: x(node), cy: y(node), r: node.parent ? 2.5 : 4 });
  mark.setAttribute("class", isPresent ? "dot present" : "dot");
  const name = node.parent ? visible(node.piece) : "prompt";
  mark.append(svg("title", {}, `${name}${node.byHand ? ", chosen by hand" : ""}`));
  return mark;
}

// The end of a branch, a button: what it says after it left the others.
function branchEnd(leaf, { x, y, at, leaves, tree, onOpen }) {
  const own = [];
  for (let node = leaf; node.parent; node = node.parent) {
    own.unshift(node.piece);
    if (node.parent.children.length > 1) break;
  }
  const text = visible(own.join(""));
  const name = text.length > LETTERS ? `${text.slice(0, LETTERS)}…` : text;
  const isOpen = [...tree.path(), ...tree.continuation()].at(-1) === leaf;
  const words = `${leaf.depth} tokens${isOpen ? ", open" : ""}: ${name || "nothing written"}`;
  const label = `Branch ${at + 1} of ${leaves.length}, ${words}`;
  const open = () => onOpen(leaf);
  const onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    open();
  };
  const classes = isOpen ? "branch open" : "branch";
  return svg("g", { role: "button", tabindex: 0, class: classes, "aria-label": label, onclick: open, onkeydown },
    svg("rect", { x: x + 8, y: y - 11, width: 8 * name.length + 46, height: 22, rx: 5 }),
    svg("text", { x: x + 14, y: y + 4 }, `${isOpen ? "▸ " : ""}${name || "(prompt)"}  ${leaf.depth}`));
}
