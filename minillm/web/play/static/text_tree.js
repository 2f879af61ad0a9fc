// A text as a tree: a prompt, and after each token the tokens that were tried there.
//
// node   { id, parent, children, token, piece, choice, settings, byHand, mu, later }
//        choice     how it was chosen: the answer of write/next at its parent; settings: those of then
//        byHand     chosen by the reader, not drawn
//        mu         mirostat's after it
//        later      the child that was visited last: where the text goes on
export class TextTree {
  // prompt: the answer of write/start.
  constructor(prompt) {
    this.prompt = prompt;
    this.root = { id: 0, parent: null, children: [], token: null, piece: "", mu: null, later: null, depth: 0 };
    this.here = this.root;
    this.count = 1;
  }

  // The token `choice` says, or another one, after `parent`; one that was tried before is found again.
  grow(parent, choice, settings, token = choice.trace.token) {
    const byHand = token !== choice.trace.token;
    let node = parent.children.find((child) => child.token === token);
    if (!node) {
      node = { id: this.count++, parent, children: [], token, later: null, depth: parent.depth + 1 };
      parent.children.push(node);
    }
    node.piece = byHand ? choice.pieces[choice.rows.indexOf(token)] : choice.text;
    // Mirostat steers by what it drew: a token chosen by hand leaves its mu as it was.
    Object.assign(node, { choice, settings, byHand, mu: byHand ? parent.mu : choice.mu });
    this.visit(node);
    return node;
  }

  visit(node) {
    this.here = node;
    for (let at = node; at.parent; at = at.parent) at.parent.later = at;
  }

  // The nodes from the first token to `node`.
  path(node = this.here) {
    const nodes = [];
    for (let at = node; at.parent; at = at.parent) nodes.push(at);
    return nodes.reverse();
  }

  written(node = this.here) {
    return this.path(node).map((each) => each.token);
  }

  // What follows `here` in the continuation that was visited last.
  continuation() {
    const nodes = [];
    for (let at = this.here.later; at; at = at.later) nodes.push(at);
    return nodes;
  }

  // Every branch: its last node and the lane that it is drawn in, and for each node its lane.
  branches() {
    const lanes = new Map();
    const leaves = [];
    // Depth first without recursion: a text may be long. The first child goes on in its parent's lane.
    const open = [this.root];
    while (open.length) {
      const node = open.pop();
      lanes.set(node, leaves.length);
      if (node.children.length) open.push(...node.children.toReversed());
      else leaves.push(node);
    }
    return { lanes, leaves };
  }
}

// The share of the probability that the model itself gave a node's token, as its logarithm in nats.
export function logprobOf(node) {
  return node.choice.logp[node.choice.rows.indexOf(node.token)];
}

// The probability with which it was drawn; that of its row after the last stage if it was chosen by hand.
export function probabilityOf(node) {
  const { trace, rows, shares } = node.choice;
  return node.byHand ? shares[shares.length - 1][rows.indexOf(node.token)] ?? 0 : trace.probability;
}
