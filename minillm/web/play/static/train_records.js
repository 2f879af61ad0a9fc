// What a run folder's metrics.jsonl says, as curves and as words.

import { short } from "./look/dom.js";

const PATIENCE = 3; // evaluations in a row that must agree, as in minillm/training/overfitting.py

// The record of a run: events are taken in as they come.
export function createRecord(name) {
  const events = { steps: new Map(), evaluations: new Map(), norms: new Map(), changes: [], samples: [] };
  return { name, offset: 0, problem: "", ...events };
}

// Takes in an answer of train/now for one run.
export function takeIn(record, { offset, events, again, problem }) {
  if (again) Object.assign(record, createRecord(record.name));
  record.offset = offset;
  record.problem ||= problem;
  for (const event of events) {
    if (event.event === "step") record.steps.set(event.step, event);
    else if (event.event === "eval") record.evaluations.set(event.step, event);
    else if (event.event === "norms") record.norms.set(event.step, event);
    else if (event.event === "changed") record.changes.push(event);
    else if (event.event === "sample") record.samples.push(event);
  }
  return again || problem !== "" || events.length > 0;
}

// Takes in the last step of the session, which is on no line yet: metrics.jsonl has every tenth. Whether it is new.
export function takeStep(record, session) {
  if (!record || session?.loss === undefined || record.steps.has(session.step)) return false;
  record.steps.set(session.step, session);
  return true;
}

// The points of one number of the record, by step: points(record.evaluations, "val_loss").
export function points(events, field) {
  const known = [...events.values()].filter((each) => typeof each[field] === "number");
  return known.map((each) => [each.step, each[field]]).sort((a, b) => a[0] - b[0]);
}

// The norms of all layers: rows, columns and values as strips.js draws them. kind: "gradients" or "weights".
export function layersOf(record, kind) {
  const events = [...record.norms.values()].sort((a, b) => a.step - b.step);
  const rows = events.length ? Object.keys(events[0][kind]) : [];
  const values = events.map((each) => rows.map((row) => each[kind][row] ?? 0));
  return { rows, columns: events.map((each) => each.step), values };
}

// The step since which validation loss has been rising while training loss fell, or null.
// history: [[step, train, val], ...].
export function overfittingSince(history) {
  if (!history.length) return null;
  let best = 0;
  history.forEach(([, , loss], index) => {
    if (loss < history[best][2]) best = index;
  });
  const after = history.slice(best + 1);
  if (after.length < PATIENCE || !(after.at(-1)[1] < history[best][1])) return null;
  return after[0][0];
}

// 0.4166 -> "0.42 nats", and never "-0.00 nats".
export function nats(gap) {
  return `${(Math.round(gap * 100) / 100 + 0).toFixed(2)} nats`;
}

// Whether the run learns which of two answers is preferred: its loss is that of a choice, and has no perplexity.
export function isOfPreferences(record) {
  return [...record.evaluations.values()].some((each) => each.val_accuracy !== undefined);
}

function preferences({ val_accuracy: accuracy, val_margin: margin }) {
  if (accuracy === undefined) return "";
  return `, the preferred answer is rewarded more in ${(100 * accuracy).toFixed(1)} % of the pairs, by ${short(margin)} in the `
    + "mean. It learns from preferences: its loss has no perplexity, and the axis at the right is not for it";
}

// A record in words: the best validation loss, the gap now, and overfitting.
export function inWords(record) {
  const { evaluations } = record;
  const history = points(evaluations, "val_loss").map(([step, loss]) => [step, evaluations.get(step).train_loss, loss]);
  if (!history.length) return { text: "no evaluation yet", overfits: false };
  const best = history.reduce((least, each) => (each[2] < least[2] ? each : least));
  const [step, train, validation] = history.at(-1);
  const since = overfittingSince(history);
  const gap = validation - train;
  const perplexity = isOfPreferences(record) ? "" : ` (perplexity ${Math.exp(best[2]).toFixed(2)})`;
  const text = `best validation loss ${best[2].toFixed(4)}${perplexity} at step ${best[0]}; ` +
    `at step ${step} the gap is ${nats(gap)}${preferences(evaluations.get(step))}`;
  const words = `overfitting since step ${since}: validation loss rises while training loss falls`;
  return { text, overfits: since !== null, since, words: since === null ? "" : words };
}
