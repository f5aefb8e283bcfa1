// The page: cards of all models side by side, what is chosen, and everything that changes it.

import { Moment, Pack } from "./data.js";
import { boundaries, frame, heat, paint, rankColour, ranks, screen } from "./draw.js";
import { pixelCommand, table } from "./numbers.js";
import { attention, el, heading, patchList, percent, sources } from "./panel.js";
import { asking } from "./server.js";
import { link, nearest, parse, VIEWS } from "./state.js";

const FRAME_MS = 140; // between levels of a replay
const SAID = {
  picture: "The guess of the clean picture; below it, smaller, the noisy picture it is made from.",
  mosaic: "One colour for each training image that pixels come from, lighter and grey for the lesser ones; lines where one piece ends.",
  difference: "How far the guess is from that of the model compared with: violet not at all, yellow by half the range or more.",
};

/** The whole page. */
class Explorer {
  constructor(content, packs) {
    Object.assign(this, { content, packs, own: null, timer: null });
    this.asked = { shape: content.data.shape, models: content.models, reference: content.numbers.reference, ...content.start };
    this.state = {};
    this.build();
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.follow());
    this.follow();
  }

  /** Show what the address asks for; a sample that is not here is asked of the server, where there is one. */
  follow() {
    const asked = parse(location.hash, this.asked);
    this.set({ ...asked, own: false });
    if (asked.sample !== this.state.sample) this.server?.request(asked.sample, asked.t);
  }

  /** The samples that hold the chosen one, and which of them it is. */
  get chosen() {
    if (this.state.own) return { pack: this.own, row: 0 };
    const pack = this.packs.find(({ first, count }) => first <= this.state.sample && this.state.sample < first + count) ?? this.packs[0];
    return { pack, row: Math.min(pack.count - 1, Math.max(0, this.state.sample - pack.first)) };
  }

  moment(model) {
    const { pack, row } = this.chosen;
    return new Moment(pack, model, this.content.models[model].whole, row, nearest(pack.times, this.state.t));
  }

  /** Change what is looked at, and show it. */
  set(change) {
    Object.assign(this.state, change);
    const { pack, row } = this.chosen;
    if (!this.state.own) this.state.sample = pack.first + row;
    this.state.t = pack.times[nearest(pack.times, this.state.t)];
    this.draw();
    clearTimeout(this.linking); // browsers refuse a hundred changes of the address in a few seconds
    this.linking = setTimeout(() => history.replaceState(null, "", link(this.state, this.content.models)), 150);
  }

  build() {
    const { content } = this;
    const [channels, height, width] = content.data.shape;
    const kind = channels === 1 ? "grey" : channels === 3 ? "colour" : `${channels}-channel`;
    document.getElementById("data").textContent =
      `${content.data.name}: ${content.data.images.toLocaleString("en")} ${kind} training images of ${height} x ${width} pixels, ` +
      `fingerprint ${content.data.fingerprint.slice(0, 12)}.` +
      (content.data.rule
        ? " They obey a rule (equal keys, equal values) that no patch shows: four pairs of colours, key above value."
        : "");
    this.buildControls();
    this.cards = content.models.map((model, m) => this.card(model, m));
    document.getElementById("cards").append(...this.cards.map(({ card }) => card));
    const command = el("pre", { id: "pixel-command" });
    this.command = el("div", {}, el("p", { textContent: "This pixel as a table:" }), command);
    document.getElementById("numbers").append(...table(content), this.command);
    document.getElementById("explorer").hidden = false;
  }

  buildControls() {
    const button = (text, label, act) => {
      const made = el("button", { type: "button", textContent: text, ariaLabel: label });
      made.addEventListener("click", act);
      return made;
    };
    this.sample = el("select", { id: "sample" });
    this.sample.addEventListener("change", () => this.pick(this.sample.value));
    this.level = el("input", { type: "range", id: "level", min: 0, step: 1 });
    this.level.addEventListener("input", () => this.set({ t: this.chosen.pack.times[this.level.valueAsNumber] }));
    this.told = el("output", { htmlFor: "level" });
    this.play = button("▶", "replay the sampling", () => this.replay());
    this.views = VIEWS.map((view) => button(view, `show the ${view}`, () => this.set({ view })));
    this.versus = el("select", { id: "versus" }, ...this.content.models.map((m, i) => el("option", { value: i, textContent: m.title })));
    this.versus.addEventListener("change", () => this.set({ versus: Number(this.versus.value) }));
    this.compared = el("div", { className: "control" }, el("label", { htmlFor: "versus", textContent: "with" }), this.versus);
    const group = (name, ...parts) => el("div", { className: `control ${name}` }, ...parts);
    const form = document.getElementById("controls");
    form.append(
      group(
        "",
        el("label", { htmlFor: "sample", textContent: "sample" }),
        button("‹", "previous sample", () => this.step(-1)),
        this.sample,
      ),
      group("wide", el("label", { htmlFor: "level", textContent: "noise" }), this.play, this.level, this.told),
      group("", ...this.views),
      this.compared,
    );
    this.sample.after(button("›", "next sample", () => this.step(1)));
    form.addEventListener("submit", (event) => event.preventDefault());
    if (this.content.served) {
      const found = async (raw) => this.take(await Pack.of(raw));
      this.server = asking(this.content, found, () => this.state.t);
      form.append(...this.server.controls);
    }
  }

  card(model, m) {
    const name = el("button", { type: "button", className: "name", textContent: model.title, title: model.spec });
    const main = el("canvas", { className: "main", tabIndex: 0 });
    const noisy = el("canvas", { className: "noisy" });
    const facts = el("small");
    main.setAttribute("role", "img");
    noisy.setAttribute("aria-hidden", "true");
    name.addEventListener("click", () => this.set({ model: m }));
    main.addEventListener("focus", () => this.state.model !== m && this.set({ model: m }));
    main.addEventListener("click", (event) => {
      const [, height, width] = this.content.data.shape;
      // The picture may be narrower than its element (object-fit: contain).
      const box = main.getBoundingClientRect();
      const scale = Math.min(box.width / width, box.height / height);
      const x = Math.floor((event.clientX - box.left - (box.width - width * scale) / 2) / scale);
      const y = Math.floor((event.clientY - box.top - (box.height - height * scale) / 2) / scale);
      this.set({ model: m, pixel: [Math.min(height - 1, Math.max(0, y)), Math.min(width - 1, Math.max(0, x))] });
    });
    const card = el("div", { className: "card" }, name, main, el("div", { className: "below" }, noisy, facts));
    return { card, name, main, noisy, facts };
  }

  draw() {
    const { content, state } = this;
    const { pack, row } = this.chosen;
    this.ranked = ranks(pack, row, nearest(pack.times, state.t), content.models);
    this.drawControls(pack);
    for (let m = 0; m < content.models.length; m++) this.drawCard(m, pack, row);
    const model = content.models[state.model];
    const moment = this.moment(state.model);
    const [y, x] = state.pixel;
    const parts = [patchList(moment, model, state.pixel), attention(moment, state.pixel), sources(moment, this.ranked)];
    const head = el("div", { id: "pixel" }, ...heading(moment, model, state.pixel, pack.ratios[moment.level]));
    if (state.versus !== state.model) {
      const apart = moment.difference(this.moment(state.versus), y, x).toFixed(3);
      const { title } = content.models[state.versus];
      head.append(
        el("p", {
          className: "quiet",
          textContent: `From the guess of ${title} it differs by ${apart}, of a range of 2 (root mean square).`,
        }),
      );
    }
    head.style.gridColumn = "1 / -1";
    document.getElementById("panel").replaceChildren(head, ...parts.filter((part) => part !== null));
    const [first] = moment.patches(y, x);
    document.getElementById("status").textContent =
      `${SAID[state.view]} Chosen: row ${y}, column ${x} of ${model.title}, ${percent(first.weight)} of its weight on what image ${first.source.number} shows.`;
    const command = pixelCommand(content, state);
    this.command.hidden = command === "";
    document.getElementById("pixel-command").textContent = command;
  }

  drawControls(pack) {
    const { state } = this;
    const options = this.packs.flatMap(({ first, count }) => Array.from({ length: count }, (_, i) => first + i)).sort((a, b) => a - b);
    const known = [...options.map(String), ...(this.own ? ["own"] : [])];
    if (known.join() !== [...this.sample.options].map((option) => option.value).join()) {
      this.sample.replaceChildren(...known.map((n) => el("option", { value: n, textContent: n === "own" ? "your image" : n })));
    }
    this.sample.value = state.own ? "own" : String(state.sample);
    this.level.max = pack.times.length - 1;
    this.level.value = nearest(pack.times, state.t);
    const ratio = pack.ratios[this.level.valueAsNumber];
    this.told.textContent = `t ${state.t.toFixed(2)}, σ/α ${ratio.toPrecision(2)}`;
    this.level.setAttribute("aria-valuetext", `time ${state.t.toFixed(2)}, noise-to-signal ratio ${ratio.toPrecision(2)}`);
    this.views.forEach((button, i) => {
      button.setAttribute("aria-pressed", String(VIEWS[i] === state.view));
    });
    this.compared.hidden = state.view !== "difference";
    this.versus.value = state.versus;
  }

  drawCard(m, pack, row) {
    const { state, content } = this;
    const { card, main, noisy, facts, name } = this.cards[m];
    const moment = this.moment(m);
    const { height, width } = moment;
    const other = this.moment(state.versus);
    const colour = {
      picture: (y, x) => screen(moment.guess(y, x)),
      mosaic: (y, x) => rankColour(this.ranked.get(moment.origin(y, x).index)),
      difference: (y, x) => heat(moment.difference(other, y, x)),
    }[state.view];
    const cell = paint(main, height, width, colour);
    if (state.view === "mosaic") boundaries(main, cell, moment);
    frame(main, cell, ...state.pixel);
    paint(noisy, height, width, (y, x) => screen(moment.noisy(y, x)), 120);
    const active = m === state.model;
    card.classList.toggle("active", active);
    name.setAttribute("aria-pressed", String(active));
    const said = active ? `, row ${state.pixel[0]}, column ${state.pixel[1]} chosen; arrow keys move` : "";
    main.setAttribute("aria-label", `${state.view} of ${content.models[m].title}${said}`);
    facts.replaceChildren(...this.facts(m, pack, row));
  }

  /** What is said of the finished sample of a model. */
  facts(m, pack, row) {
    const lines = [];
    if (pack.consistent) {
      const good = pack.consistent[m][row];
      lines.push(
        el("span", { className: good ? "good" : "bad", textContent: good ? "✓ ends obeying the rule" : "✗ ends breaking the rule" }),
      );
    }
    const { reference } = this.content.numbers;
    const r2 = pack.r2[m][row];
    if (m !== reference && r2 !== null)
      lines.push(el("span", { textContent: `r² ${r2.toFixed(2)} with ${this.content.models[reference].title}` }));
    return lines;
  }

  key(event) {
    const { target } = event;
    const typing = target.matches("input, select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const [, height, width] = this.content.data.shape;
    const { pixel, model, view, t } = this.state;
    const move = (dy, dx) => this.set({ pixel: [(pixel[0] + dy + height) % height, (pixel[1] + dx + width) % width] });
    const { times } = this.chosen.pack;
    const level = nearest(times, t);
    const act = {
      ArrowUp: () => move(-1, 0),
      ArrowDown: () => move(1, 0),
      ArrowLeft: () => move(0, -1),
      ArrowRight: () => move(0, 1),
      "[": () => this.set({ t: times[Math.max(0, level - 1)] }),
      "]": () => this.set({ t: times[Math.min(times.length - 1, level + 1)] }),
      n: () => this.step(1),
      p: () => this.step(-1),
      v: () => this.set({ view: VIEWS[(VIEWS.indexOf(view) + 1) % VIEWS.length] }),
      " ": target.matches("button") ? undefined : () => this.replay(),
    }[event.key];
    const digit = /^[1-9]$/.test(event.key) && Number(event.key) <= this.content.models.length ? Number(event.key) - 1 : null;
    if (digit !== null) this.set({ model: digit });
    else if (act) act();
    else return;
    event.preventDefault();
    if (digit !== null && model !== digit && document.activeElement?.matches("canvas"))
      this.cards[digit].main.focus({ preventScroll: true });
  }

  pick(value) {
    this.set(value === "own" ? { own: true } : { own: false, sample: Number(value) });
  }

  step(by) {
    const { options, selectedIndex } = this.sample;
    this.pick(options[(selectedIndex + by + options.length) % options.length].value);
  }

  /** From noise to the finished sample, and stop; again stops at once. */
  replay() {
    const stop = () => {
      clearInterval(this.timer);
      this.timer = null;
      this.play.textContent = "▶";
    };
    if (this.timer !== null) return stop();
    const { times } = this.chosen.pack;
    let level = 0;
    this.set({ t: times[0] });
    this.play.textContent = "■";
    this.timer = setInterval(() => {
      level++;
      if (level < times.length) this.set({ t: times[level] });
      if (level >= times.length - 1) stop();
    }, FRAME_MS);
  }

  /** Samples that the server has computed. */
  take(pack) {
    if (pack.first === null) {
      this.own = pack;
      this.set({ own: true, t: pack.times.at(-1) });
      return;
    }
    this.packs = [pack, ...this.packs.filter(({ first }) => first !== pack.first)];
    this.set({ own: false, sample: pack.first, t: pack.asked });
  }
}

async function start() {
  try {
    const content = JSON.parse(document.getElementById("content").textContent);
    window.explorer = new Explorer(content, await Promise.all(content.packs.map(Pack.of)));
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    const told = document.getElementById("failure");
    told.textContent = `This page could not be shown: ${error.message}. It needs a browser of 2023 or later.`;
    told.hidden = false;
    throw error;
  }
}

start();
