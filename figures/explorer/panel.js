// Everything about one pixel of one model: its patches, what it attends to, and the training images of the mosaic.

import { css, frame, frameWindow, heat, outline, paint, rankColour, screen } from "./draw.js";

const SOURCES = 8; // training images of the mosaic that are shown
const THUMBNAIL = 84;

/** An element; texts are texts, whatever stands in them. */
export function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A share as a reader writes it. */
export function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1%";
  return share > 0.9995 && share < 1 ? ">99.9%" : `${(100 * share).toFixed(1)}%`;
}

const number = (v) => v.toFixed(2).replace("-", "−");
const numbers = (channels) => `(${channels.map(number).join(", ")})`;
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function swatch(colour) {
  const made = el("span", { className: "swatch" });
  made.style.background = css(colour);
  return made;
}

/** What a training image is called. */
function called(source) {
  const name = source.name === null ? `image ${source.number}` : `${source.name} (image ${source.number})`;
  return source.label === null ? name : `${name}, class ${source.label}`;
}

/** A training image with a pixel of it, and the patch around it where only that was seen. */
function thumbnail(moment, source, place) {
  const canvas = el("canvas");
  const { height, width, window } = moment;
  const cell = paint(canvas, height, width, (y, x) => screen(source.colour(y, x)), THUMBNAIL);
  if (window !== null) frameWindow(canvas, cell, place, window, height, width);
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.strokeStyle = "#000000";
  context.beginPath();
  context.arc((place[1] + 0.5) * cell, (place[0] + 0.5) * cell, Math.max(1.5, Math.min(4, cell * 0.2)), 0, 2 * Math.PI);
  context.fill();
  context.stroke();
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${called(source)}, row ${place[0]}, column ${place[1]}`);
  return canvas;
}

function bar(shares, rest) {
  const made = el("div", { className: "bar" });
  for (const share of shares) {
    const part = el("i");
    part.style.width = `${100 * share}%`;
    made.append(part);
  }
  const left = el("i", { className: "rest" });
  left.style.width = `${100 * rest}%`;
  made.append(left);
  return made;
}

/** Why weights are not the model's own, where they are not. */
function whose(model) {
  if (model.kind === "solved") {
    return "This score has no weights of its own: what it knows of a patch is what the patch looks like, which are these weights (ELS).";
  }
  if (model.own) return null;
  const who = model.kind === "network" ? "A network" : "This machine";
  return `${who} has no weights of training patches: this is what its own noisy patch looks like to ELS.`;
}

/** The training patches of a pixel. */
export function patchList(moment, model, [y, x]) {
  const found = moment.patches(y, x);
  const shown = found.reduce((sum, patch) => sum + patch.weight, 0);
  const rest = Math.max(0, 1 - shown);
  const what = moment.window === null ? "training images" : "training patches";
  const items = found.map((patch) => {
    const { source, place, weight, count } = patch;
    const where = `${called(source)}, row ${place[0]}, column ${place[1]}`;
    const alike = count > 1 ? `, and ${plural(count - 1, "other")} just like it` : "";
    const line = el("div", {}, el("span", { className: "weight", textContent: percent(weight) }), bar([weight], 0));
    line.append(el("small", { textContent: where + alike }));
    const item = el("li", {}, thumbnail(moment, source, place), line);
    item.dataset.weight = weight;
    item.dataset.image = source.number;
    return item;
  });
  const size = moment.window === null ? "the whole picture" : `${moment.window[0]} x ${moment.window[1]} pixels`;
  const effective = moment.effective(y, x);
  const many = effective < 100 ? effective.toFixed(1) : Math.round(effective).toLocaleString("en");
  const summary = el("p", { className: "shares", textContent: `Shown: ${percent(shown)}. Left out: ${percent(rest)}. ` });
  summary.append(`Effective number of ${what}: ${many}. It sees ${size}.`);
  Object.assign(summary.dataset, { shown, rest, effective });
  const note = whose(model);
  return el(
    "div",
    { id: "patches" },
    el("h3", { textContent: model.own ? `The ${what} it is made of` : "What its patch looks like" }),
    note === null ? null : el("p", { className: "quiet", textContent: note }),
    bar(
      found.map((patch) => patch.weight),
      rest,
    ),
    summary,
    el("ul", { className: "patches" }, ...items),
  );
}

/** Heading of the panel: the pixel, its noisy colour and the guess. */
export function heading(moment, model, [y, x], ratio) {
  const [noisy, guess] = [moment.noisy(y, x), moment.guess(y, x)];
  const line = el("p", {}, swatch(screen(noisy)), `noisy ${numbers(noisy)} `, swatch(screen(guess)), `guess ${numbers(guess)}`);
  return [el("h2", { textContent: `Row ${y}, column ${x} of ${model.title}, at noise-to-signal ${ratio.toPrecision(3)}` }), line];
}

/** What a pixel attends to, and its guess as a sum; null for models without attention. */
export function attention(moment, [y, x]) {
  if (!moment.attends) return null;
  const found = moment.attention(y, x);
  const share = new Map(found.map((one) => [one.place.join(), one.share]));
  const most = Math.max(...share.values());
  const canvas = el("canvas", { className: "heat" });
  const { height, width } = moment;
  const cell = paint(canvas, height, width, (v, u) => heat((share.get(`${v},${u}`) ?? 0) / most), 220);
  frame(canvas, cell, y, x);
  canvas.setAttribute("role", "img");
  const top = found.slice(0, 3).filter((one) => one.share >= 0.0005);
  const said = top.map((one) => `row ${one.place[0]}, column ${one.place[1]} (${percent(one.share)})`).join("; ");
  canvas.setAttribute("aria-label", `Attention: ${said}`);
  const [local, guess] = [moment.local(y, x), moment.guess(y, x)];
  const others = guess.map((v, c) => v - local[c]);
  const self = share.get(`${y},${x}`) ?? 0;
  const rows = [
    ["own patch", local],
    ["+ others", others],
    ["= guess", guess],
  ];
  const sum = el("div", { className: "sum" });
  for (const [name, channels] of rows) {
    sum.append(el("span", { textContent: name }), el("span", {}, swatch(screen(channels)), numbers(channels)));
  }
  const words = `It attends to ${said}; to itself ${percent(self)}. Yellow: ${percent(most)}, violet: none.`;
  const part = el("div", { id: "attention" }, el("h3", { textContent: "What it attends to" }), canvas);
  part.append(el("p", { textContent: words }), sum);
  part.append(el("small", { textContent: "Only the sum is determined: what a pixel knows itself may sit in either part." }));
  part.dataset.shares = JSON.stringify(found.map((one) => [...one.place, one.share]));
  return part;
}

/** The training images of the mosaic, those of most pixels first. */
export function sources(moment, ranked) {
  const { height, width, pack } = moment;
  const taken = new Map();
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const { index, place } = moment.origin(y, x);
      if (!taken.has(index)) taken.set(index, []);
      taken.get(index).push(place);
    }
  }
  const sorted = [...taken].sort((a, b) => b[1].length - a[1].length || a[0] - b[0]);
  const items = sorted.slice(0, SOURCES).map(([index, places]) => {
    const [source, canvas] = [pack.source(index), el("canvas")];
    const used = new Set(places.map((place) => place.join()));
    const shade = (y, x) => screen(used.has(`${y},${x}`) ? source.colour(y, x) : source.colour(y, x).map((v) => 0.3 * v + 0.2));
    const cell = paint(canvas, height, width, shade, THUMBNAIL);
    outline(canvas, cell, places, rankColour(ranked.get(index)));
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", called(source));
    const words = el("div", {}, swatch(rankColour(ranked.get(index))), plural(places.length, "pixel"));
    return el("li", {}, canvas, words, el("small", { textContent: called(source) }));
  });
  const more = sorted.length - items.length;
  const rest = more > 0 ? ` The first ${items.length} are shown.` : "";
  const part = el("div", { id: "sources" }, el("h3", { textContent: "The mosaic" }));
  const words = `${plural(height * width, "pixel")} from ${plural(taken.size, "training image")}, the fewest that were found to hold all their patches.`;
  part.append(el("p", { textContent: words + rest }), el("ul", { className: "sources" }, ...items));
  part.dataset.images = taken.size;
  return part;
}
