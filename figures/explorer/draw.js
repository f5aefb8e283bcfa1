// Pictures on canvases, pixel by pixel, and the colours of the mosaic.

// Okabe & Ito's colours, told apart by all readers, then lighter and darker ones of the same, then greys; lines say where pieces end.
const STRONG = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"];
const PALE = ["#80b9d9", "#f3cf80", "#80cfb9", "#e6bcd3", "#abdaf4", "#ebaf80", "#f8f2a1"];
const DARK = ["#004267", "#855c00", "#005c43", "#764661", "#326887", "#7c3700", "#8b8426"];
const GREY = ["#9a9a9a", "#c4c4c4", "#767676"];

const rgb = (hex) => [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
const COLOURS = [...STRONG, ...PALE, ...DARK].map(rgb);
const GREYS = GREY.map(rgb);

/** The colour, as red, green and blue, of the training image that is `rank`-th. */
export function rankColour(rank) {
  return COLOURS[rank] ?? GREYS[rank % GREYS.length];
}

/** A pixel in [-1, 1] as red, green and blue of the screen, cut off at its range. */
export function screen(channels) {
  const levels = channels.map((v) => Math.max(0, Math.min(255, Math.round((v + 1) * 127.5))));
  return levels.length >= 3 ? levels.slice(0, 3) : [levels[0], levels[0], levels[0]];
}

/** Red, green and blue as a colour of style. */
export function css([red, green, blue]) {
  return `rgb(${red}, ${green}, ${blue})`;
}

/** Viridis, roughly, for shares from 0 to 1. */
export function heat(share) {
  const stops = [
    [68, 1, 84],
    [59, 82, 139],
    [33, 145, 140],
    [94, 201, 98],
    [253, 231, 37],
  ];
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  return stops[low].map((v, i) => Math.round(v + (at - low) * (stops[low + 1][i] - v)));
}

/** Draw a picture of one colour for each pixel; returns the side of a pixel. */
export function paint(canvas, height, width, colourOf, side = 360) {
  const cell = Math.max(2, Math.round(side / Math.max(width, height)));
  canvas.width = cell * width;
  canvas.height = cell * height;
  const small = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) small.data.set([...colourOf(y, x), 255], 4 * (y * width + x));
  }
  const plain = new OffscreenCanvas(width, height);
  plain.getContext("2d").putImageData(small, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(plain, 0, 0, canvas.width, canvas.height);
  return cell;
}

/** A frame seen on any colour: dark around light. */
export function frame(canvas, cell, y, x, height = 1, width = 1) {
  const context = canvas.getContext("2d");
  const thick = Math.max(1.5, Math.min(5, cell * 0.12));
  for (const [colour, line] of [
    ["#000000", 2 * thick],
    ["#ffffff", thick],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.strokeRect(x * cell + thick, y * cell + thick, width * cell - 2 * thick, height * cell - 2 * thick);
  }
}

/** A frame around a window that may reach beyond the picture, where it is cut off. */
export function frameWindow(canvas, cell, [y, x], [kh, kw], height, width) {
  const [top, left] = [Math.max(0, y - (kh >> 1)), Math.max(0, x - (kw >> 1))];
  const [bottom, right] = [Math.min(height, y + (kh >> 1) + 1), Math.min(width, x + (kw >> 1) + 1)];
  frame(canvas, cell, top, left, bottom - top, right - left);
}

/** Lines between pixels that were not copied together: from another training image, or by another shift. */
export function boundaries(canvas, cell, moment) {
  const context = canvas.getContext("2d");
  const { height, width } = moment;
  const shift = (length, a, b) => (a - b + length) % length;
  const pieces = Array.from({ length: height * width }, (_, p) => {
    const [y, x] = [Math.floor(p / width), p % width];
    const { index, place } = moment.origin(y, x);
    return (index * height + shift(height, place[0], y)) * width + shift(width, place[1], x);
  });
  context.strokeStyle = "#111111";
  context.lineWidth = Math.max(1.5, cell * 0.05);
  context.beginPath();
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const here = pieces[y * width + x];
      if (x + 1 < width && pieces[y * width + x + 1] !== here) {
        context.moveTo((x + 1) * cell, y * cell);
        context.lineTo((x + 1) * cell, (y + 1) * cell);
      }
      if (y + 1 < height && pieces[(y + 1) * width + x] !== here) {
        context.moveTo(x * cell, (y + 1) * cell);
        context.lineTo((x + 1) * cell, (y + 1) * cell);
      }
    }
  }
  context.stroke();
}

/** Lines around some pixels, each in a colour. */
export function outline(canvas, cell, places, colour) {
  const context = canvas.getContext("2d");
  context.strokeStyle = css(colour);
  context.lineWidth = Math.max(1, Math.min(3, cell * 0.15));
  for (const [y, x] of places) context.strokeRect(x * cell + 0.5, y * cell + 0.5, cell - 1, cell - 1);
}

/** Training images that any model takes pixels from at a level, index to rank: those first that most pixels come from at all levels. */
export function ranks(pack, row, level, models) {
  const [height, width] = pack.arrays.images.shape.slice(-2);
  const counts = new Map();
  const present = new Set();
  models.forEach((_, m) => {
    const { values, shape } = pack.arrays[`${m}.mosaic`];
    const [, levels, rows, cols] = shape;
    const worth = (height * width) / (rows * cols); // of models that see the whole image, one number tells all pixels
    for (let l = 0; l < levels; l++) {
      const start = (row * levels + l) * rows * cols;
      for (const index of values.subarray(start, start + rows * cols)) {
        counts.set(index, (counts.get(index) ?? 0) + worth);
        if (l === level) present.add(index);
      }
    }
  });
  const sorted = [...counts].filter(([index]) => present.has(index)).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  return new Map(sorted.map(([index], rank) => [index, rank]));
}
