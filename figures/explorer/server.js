// What the page asks of the server it came from (figures/explorer/serve.py): other samples and levels, and pictures of one's own.

import { el } from "./panel.js";

/** Ask, and show how far it is; resolves to samples as Python packed them. */
async function ask(address, body, show) {
  const answer = await fetch(address, { method: "POST", body, headers: { "X-Explorer": "1", "Content-Type": "application/octet-stream" } });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server ended its answer too early");
    text += value;
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) {
      const told = JSON.parse(line);
      if (told.error) throw new Error(told.error);
      if (told.pack) return told.pack;
      show(told.progress);
    }
  }
}

/** A picture file as bytes `(C, H, W)`: its central part, in the size and channels of the training images. */
async function pixels(file, [channels, height, width]) {
  const picture = await createImageBitmap(file);
  const scale = Math.min(picture.width / width, picture.height / height);
  const [w, h] = [width * scale, height * scale];
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "#000000";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const bytes = new Uint8Array(channels * height * width);
  for (let p = 0; p < height * width; p++) {
    const [r, g, b] = data.subarray(4 * p, 4 * p + 3);
    const grey = Math.round(0.299 * r + 0.587 * g + 0.114 * b); // luma, as Pillow converts
    for (let c = 0; c < channels; c++) bytes[c * height * width + p] = channels === 3 ? data[4 * p + c] : grey;
  }
  return bytes;
}

/**
 * What asks the server: controls, and `request(sample, t)`.
 *
 * @param content of the page
 * @param found is given what the server answers
 * @param start says at which time one's own image is to start
 */
export function asking(content, found, start) {
  const meter = el("progress", { max: 1, value: 0, hidden: true });
  const words = el("span", { className: "quiet", role: "status" });
  const show = (share) => {
    meter.value = share;
  };
  let busy = false;
  const work = async (address, body) => {
    if (busy) return;
    busy = true;
    words.textContent = "computing";
    meter.hidden = false;
    try {
      await found(await ask(address, body, show));
      words.textContent = "";
    } catch (error) {
      words.textContent = error.message;
    } finally {
      busy = false;
      meter.hidden = true;
    }
  };
  const sample = el("input", { type: "number", min: 0, max: 999999, value: 0, id: "any-sample", ariaLabel: "number of a sample" });
  const level = el("input", { type: "number", min: 0.001, max: 1, step: 0.001, value: 0.5, id: "any-level", ariaLabel: "noise level t" });
  const go = el("button", { type: "button", textContent: "compute", id: "compute" });
  const request = (number, t) => work(`/samples?sample=${number}${t > 0 ? `&t=${t}` : ""}`, null);
  go.addEventListener("click", () => request(Number(sample.value), Number(level.value)));
  const file = el("input", { type: "file", accept: "image/*", id: "own", hidden: true });
  const take = async (picture) => {
    if (!picture) return;
    try {
      const body = await pixels(picture, content.data.shape);
      await work(`/image?t=${Math.max(0.001, start())}&seed=${content.seed}`, body);
    } catch {
      words.textContent = `${picture.name} can't be read as a picture`;
    }
  };
  file.addEventListener("change", () => take(file.files[0]));
  const choose = el("button", { type: "button", textContent: "your own image" });
  choose.addEventListener("click", () => file.click());
  const drop = el(
    "div",
    { className: "drop control" },
    choose,
    el("small", { textContent: "or drop one here: noise is added up to the level above" }),
    file,
  );
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  }
  const any = el("div", { className: "control" }, el("label", { htmlFor: "any-sample", textContent: "any sample" }), sample);
  any.append(el("label", { htmlFor: "any-level", textContent: "at t" }), level, go);
  return { controls: [any, drop, meter, words], request };
}
