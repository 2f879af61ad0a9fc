// What a run folder's metrics.jsonl says, as curves and as words.

const PATIENCE = 3; // evaluations in a row that must agree, as in minillm/training/overfitting.py

// The record of a run: events are taken in as they come.
export function createRecord(name) {
  return { name, offset: 0, steps: new Map(), evaluations: new Map(), norms: new Map(), changes: [], samples: [] };
}

// Takes in an answer of train/now for one run.
export function takeIn(record, { offset, events, again }) {
  if (again) Object.assign(record, createRecord(record.name));
  record.offset = offset;
  for (const event of events) {
    if (event.event === "step") record.steps.set(event.step, event);
    else if (event.event === "eval") record.evaluations.set(event.step, event);
    else if (event.event === "norms") record.norms.set(event.step, event);
    else if (event.event === "changed") record.changes.push(event);
    else if (event.event === "sample") record.samples.push(event);
  }
  return again || events.length > 0;
}

// The points of one number of the record, by step: points(record.evaluations, "val_loss").
export function points(events, field) {
  return [...events.values()].filter((each) => each[field] !== null && each[field] !== undefined).map((each) => [each.step, each[field]]).sort((a, b) => a[0] - b[0]);
}

// The norms of all layers: rows, columns and values as strips.js draws them. kind: "gradients" or "weights".
export function layersOf(record, kind) {
  const events = [...record.norms.values()].sort((a, b) => a.step - b.step);
  const rows = events.length ? Object.keys(events[0][kind]) : [];
  return { rows, columns: events.map((each) => each.step), values: events.map((each) => rows.map((row) => each[kind][row] ?? 0)) };
}

// The step since which validation loss has been rising while training loss fell, or null. history: [[step, train, val]].
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

// A record in words: the best validation loss, the gap now, and overfitting.
export function inWords(record) {
  const history = points(record.evaluations, "val_loss").map(([step, loss]) => [step, record.evaluations.get(step).train_loss, loss]);
  if (!history.length) return { text: "no evaluation yet", overfits: false };
  const best = history.reduce((least, each) => (each[2] < least[2] ? each : least));
  const [step, train, validation] = history.at(-1);
  const since = overfittingSince(history);
  const gap = validation - train;
  const text = `best validation loss ${best[2].toFixed(4)} (perplexity ${Math.exp(best[2]).toFixed(2)}) at step ${best[0]}; ` +
    `at step ${step} the gap is ${gap.toFixed(2)} nats`;
  const words = `overfitting since step ${since}: validation loss rises while training loss falls`;
  return { text, overfits: since !== null, since, words: since === null ? "" : words };
}
