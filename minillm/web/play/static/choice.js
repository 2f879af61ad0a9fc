// How a token is chosen: the answer of write/next as the columns and the draw of look/pipeline.js, with a heading.
import { h, visible } from "./look/dom.js";
import { pipeline } from "./look/pipeline.js";

// onPick(token): when a row of the table is chosen. -> { element, update(shown, seen) }
export function choicePanel(onPick) {
  const heading = h("h2", { id: "write-heading" });
  const remark = h("p", { class: "quiet" });
  const table = pipeline([]);
  const element = h("section", { class: "panel", "aria-labelledby": "write-heading" }, heading, remark, table);

  // shown: { choice, settings, isNow }, or null where the settings are refused. seen: the node of the text whose
  // token it is, null for the next token.
  function update(shown, seen) {
    table.hidden = !shown;
    heading.textContent = shown ? headingOf(seen, shown.isNow) : "No token can be chosen with these settings";
    remark.textContent = shown ? remarkOf(seen) : "";
    if (shown) table.update(stagesOf(shown), { draw: drawOf(shown), came: seen?.token, onPick });
  }

  return { element, update };
}

function headingOf(seen, isNow) {
  if (!seen) return "How the next token is chosen";
  const how = isNow ? "would be chosen with these settings" : "was chosen";
  return `How “${visible(seen.piece)}” (token ${seen.depth}) ${how}`;
}

function remarkOf(seen) {
  if (!seen) return "Choose a row to write that token in place of the one drawn.";
  const hand = seen.byHand ? "It was chosen by hand, not by the number drawn. " : "";
  return `${hand}Choose a row, and the text branches here.`;
}

function stagesOf({ choice, settings }) {
  const { trace, rows, pieces, shares } = choice;
  return trace.stages.map((stage, at) => {
    const tokens = rows.map((id, row) => ({ id, text: pieces[row], p: shares[at][row] }));
    const rest = Math.max(0, 1 - tokens.reduce((sum, { p }) => sum + (p ?? 0), 0));
    return { ...stage, note: noteOf(stage.name, settings), tokens, rest };
  });
}

// What a stage is set to.
function noteOf(name, settings) {
  const value = settings[name];
  if (name === "model" || value === undefined) return "";
  return typeof value === "object" ? `${Object.keys(value).length} tokens` : String(value);
}

function drawOf({ choice }) {
  const { trace, rows, pieces, text } = choice;
  const names = new Map(rows.map((id, row) => [id, pieces[row]]));
  const segments = choice.segments.map(([id, first, past]) => ({ id, text: names.get(id), first, past }));
  const { drawn, first, past, token, probability } = trace;
  return { u: drawn, first, past, token, text, p: probability, segments };
}
