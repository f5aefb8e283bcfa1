// The numbers under the pictures, and the command that repeats them.

import { el, percent } from "./panel.js";

const COLUMNS = [
  ["consistent", "obeys the rule of the data", (model) => model.consistency, percent],
  ["valid", "all cells are colours", (model) => model.valid, percent],
  ["memorised", "a copy of a training image", (model) => model.memorised, percent],
  ["r²", "squared correlation with the reference, median", (model) => model.pair?.r2_pearson, (v) => v.toFixed(3)],
  ["same colours", "all eight as the reference", (model) => model.pair?.label_agreement, percent],
];

/** A value, with its interval where it has one. */
function cell(value, write) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return write(value);
  if (value.value === null) return "constant";
  return `${write(value.value)} [${write(value.low)}, ${write(value.high)}]`;
}

/** The table of what was measured. */
export function table(content) {
  const { numbers, models } = content;
  const columns = COLUMNS.filter(([, , of]) => numbers.models.some((model) => of(model) !== undefined));
  const head = el("tr", {}, el("th", { textContent: "model", scope: "col" }));
  for (const [name, title] of columns) head.append(el("th", { textContent: name, title, scope: "col" }));
  const rows = models.map((model, i) => {
    const row = el("tr", {}, el("th", { textContent: model.title + (i === numbers.reference ? " (reference)" : ""), scope: "row" }));
    for (const [, , of, write] of columns) row.append(el("td", { textContent: cell(of(numbers.models[i]), write) }));
    return row;
  });
  const notes = columns.map(([name, title]) => `${name}: ${title}`).join("; ");
  return [
    el("h2", { textContent: `Numbers, from ${numbers.count} samples of the same noise (95% intervals)` }),
    el("div", { className: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows))),
    el("p", { className: "quiet", textContent: `${notes}.` }),
    el("h2", { textContent: "To repeat it" }),
    el("pre", { textContent: content.command }),
  ];
}

/** Where one pixel's numbers can be had as text, for models that have some. */
export function pixelCommand(content, state) {
  const model = content.models[state.model];
  if (!(model.own || model.kind === "solved") || state.own) return "";
  const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
  const t = Number(state.t.toFixed(6));
  const asked = `--seed ${content.seed} --sample ${state.sample} --steps ${content.steps} --t ${t} --pixel ${state.pixel.join(",")}`;
  return `python -m theory.provenance ${quote(model.spec)} --dataset ${quote(content.dataset)} ${asked}`;
}
